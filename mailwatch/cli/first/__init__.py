"""The conversation of `mailwatch init`: what it asks, tries and writes."""
