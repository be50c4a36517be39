"""The vocabulary of tiny models."""

from __future__ import annotations

_WORD_LIST = """
    the a and of to in is it you that he was for on are with as his they be at one have this
    from or had by hot but some what there we can out other were all your when up use word how
    said an each she which do their time if will way about many then them would write like so
    these her long make thing see him two has look more day could go come did my sound no most
    number who over know water than call first people may down side been now find any new work
    part take get place made live where after back little only round man year came show every
    good me give our under router model llama token server stream
"""

WORDS = tuple(_WORD_LIST.split())

SPACE = "\u2581"  # SentencePiece's mark for the space before a word
