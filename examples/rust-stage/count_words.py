"""The step as a command: python3 count_words.py SHORTEST < document.json"""

import json
import sys

document = json.load(sys.stdin)
letters = [sum(map(str.isalpha, word)) for word in document["text"].split()]
words = sum(1 for count in letters if count >= max(int(sys.argv[1]), 1))
if not words:
    sys.exit(f"{document['uri']} has no words")
print(json.dumps({"uri": document["uri"], "words": words}))
