"""Fingerprints as words, to be read out on the telephone and compared.

256 common English words, one for each value of a byte, so ten words are 80 bits: whoever wants to put other
keys under words that were read out has to make some 2^80 keys. No two words are one letter apart, begin with
the same four letters or have the same Soundex code, so a word that was misheard is mostly none of the list.
The list and its order are part of the protocol: both sides must hold the same.
"""

from __future__ import annotations

from typing import Final

_LIST: Final = """
acorn airport album almond anchor apple apron arrow artist atlas autumn avenue badger bakery balcony
bamboo banana banjo barrel beach beaver bicycle biscuit blanket bonfire bottle bread bridge bronze buffalo
button cabin cactus camel candle canyon carpet castle cello cement cherry chimney circus clover cobweb
coconut coffee copper coral cottage cricket crystal curtain cushion daisy dancer dentist diamond doctor
dolphin domino donkey dragon drawer drum eagle echo elbow emerald engine evening eyebrow fabric falcon
farmer feather ferry fiddle finger flag flute forest fossil freezer frog fudge galaxy garden garlic
gazelle giraffe glacier goblet gorilla granite guitar hamster harvest hazel hedge helmet honey iceberg
igloo indigo insect island ivory jacket jaguar jasmine jelly jigsaw journal jungle kennel kettle kitchen
koala ladder lagoon lantern lemon leopard lettuce library lizard lobster locket lunch magnet mango marble
meadow melon mermaid mirror mitten mosaic moss mother museum mustard napkin nephew noodle north novel
nutmeg oasis ocean octopus olive onion opera orange orchard organ ostrich otter palace pancake panther
paper pebble pelican pencil piano picnic pigeon pilot pirate planet poppy potato pudding puffin pumpkin
puppet puzzle pyramid quartz queen quilt quiver rabbit raccoon radio railway rainbow ribbon rubber runner
salad sandal satchel school scooter seagull shadow shelf sheriff shovel sister sledge slipper snail soap
spider spinach squash stable statue stove sugar summer swan tadpole tailor teapot tennis thimble thunder
timber toast tomato tractor trumpet tulip tunnel turnip turtle twig uncle unicorn uniform valley vanilla
velvet village vinegar violin volcano vulture waffle walnut walrus wasp weasel whistle willow window wolf
yacht zebra zigzag
"""
WORDS: Final = tuple(_LIST.split())


def words(digest: bytes, count: int = 10) -> tuple[str, ...]:
    """Return the words of a digest's first ``count`` bytes, 8 bits a word. ValueError if it has fewer."""
    if not 1 <= count <= len(digest):
        raise ValueError(f"{count} words of a digest of {len(digest)} bytes")
    return tuple(WORDS[byte] for byte in digest[:count])
