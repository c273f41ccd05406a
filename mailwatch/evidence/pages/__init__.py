"""Makes the pages of report.pdf again from a bundle alone, and compares them with those in it.

rebuild     the evidence and its facts as they were when the report was made, from a verified bundle
compare     the claim `pages`: the same bytes, or the same text where another Typst is installed
signed      whether a signed PDF shows what the unsigned one does
text        the text of a PDF, page by page

Verification itself needs none of this: it neither knows the words of reports nor loads Typst.
"""
