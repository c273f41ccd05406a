"""A fuzzer of everything that reads untrusted bytes; `make fuzz`, and more of it at night.

target.py       what is fuzzed: a name, seeds, and a call that raises when something is wrong
mutation.py     how an input is made out of seeds
wire.py         servers on no network: a probe, and what an input makes its server say
mail.py, network.py, evidence.py, owner_input.py  the targets
campaign.py     the run: so many inputs, bounded in time and memory, each failure in a file
corpus/         inputs that once were failures; tests/fuzz/test_fuzz.py replays them

A failure is any exception but those that a reader is documented to raise, an answer of a server that is judged as a
fault of our own, a secret on record, and work or memory beyond what the input's length explains.
"""
