"""Plain text of dictionaries, C++ headers and manual pages: what launch/corpora keeps of packages.

english, cpp, german and japanese take (path, bytes) of package files and give documents. Mark-up,
licences, credits, paragraphs that many documents share, and near copies of documents are left out.
"""
import gzip, re, unicodedata
from collections import Counter

from corpora_man import man_page, wrap

SHORTEST, LONGEST = 300, 48_000  # characters of a document; a longer one is cut before a paragraph


def english(files):
    """Entries of the dictionaries GCIDE (Webster 1913 and WordNet) and FOLDOC (computing)."""
    documents = []
    for path, content in files:
        if path.endswith(".dict.dz"):
            entries = re.split(r"\n\n(?=\S)", gzip.decompress(content).decode(errors="replace"))
            clean = webster if "gcide" in path else foldoc
            documents += [clean(e) for e in entries if len(e) > SHORTEST and not e.startswith("00-")]
    return distinct(documents, shortest=200)


def cpp(files):
    headers = []
    for path, content in files:
        if path.startswith("./usr/include/") and "-linux-gnu" not in path:
            headers.append(header(decode(content)))
    return distinct(headers, boilerplate=re.compile(r"\s*(//|/?\*)"))


def german(files):
    return distinct(man_pages(files, "/de/", "german"))


def japanese(files):
    return distinct(man_pages(files, "/ja/", "japanese"))


def man_pages(files, language_folder, language):
    for path, content in files:
        if language_folder in path and re.search(r"/man\d/[^/]*\.gz$", path):
            yield man_page(decode(gzip.decompress(content)), language)


def decode(content):
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def distinct(documents, shortest=SHORTEST, boilerplate=re.compile("")):
    """Documents less the paragraphs that six or more share (of those that match `boilerplate`), less
    those of which more than half the text is in earlier ones, and less very short ones."""
    pages = [re.split(r"\n{2,}", d.strip("\n")) for d in documents if d]
    shared = Counter(p for page in pages for p in set(page) if len(p) >= 30 and boilerplate.match(p))
    seen, kept = set(), []
    for page in pages:
        document = "\n\n".join(p for p in page if shared[p] < 6).strip("\n")
        document = re.sub(r"[ \t]+\n", "\n", re.sub(r"[\0\f\r\ufffd\ufeff]", "", document)) + "\n"
        if len(document) > LONGEST:
            document = document[: document.rfind("\n\n", 0, LONGEST) + 1]
        lines = {line for line in document.split("\n") if len(line) >= 20}
        old = sum(len(line) for line in lines & seen)
        if shortest <= len(document) and 2 * old <= sum(map(len, lines)):
            seen |= lines
            kept.append(document)
    return kept


ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "=": "\u0304", "~": "\u0303",
           ",": "\u0327"}
LETTERS = {"ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "eth": "ð", "thorn": "þ", "root": "√", "deg": "°",
           "imac": "ī", "aum": "ä", "sect": "§", "alpha": "α", "beta": "β"}


def letter(match):
    mark, base, breve, name = match.groups()
    if name:
        return LETTERS.get(name, match[0])
    return unicodedata.normalize("NFC", base + ("\u0306" if breve else ACCENTS.get(mark, "")))


def webster(entry):
    """Head word and senses; no pronunciation, etymology, sources, or brackets around references."""
    entry = re.sub(r"\[(?:(['`^\"=~,.*-]?)([A-Za-z])(\^?)|([A-Za-z]{2,5}))\]", letter, entry)
    entry = re.sub(r"\s*\[[^\[\]]*(Webster|PJC|WordNet|Century Dict)[^\[\]]*\]|\s*\[(AS|\d)\]", "", entry)
    entry = re.sub(r"\\[^\\]*\\,?", "", entry, count=1).replace("{", "").replace("}", "")
    depth, end = 0, len(entry)
    for at, character in enumerate(entry):
        depth += (character == "[") - (character == "]")
        if character == "\n" and depth == 0:
            end = at
            break
    head, body = entry[:end], entry[end:]
    while (bare := re.sub(r"\[[^\[\]]*\]", "", head)) != head:
        head = bare
    head = re.sub(r"\([^()]*[\"`*?][^()]*\)|^([^(]+) \([^()]*\)(?=,)", r"\1", head)
    head = re.sub(r"\s+([,.;])", r"\1", head)
    return re.sub(r" +,", ",", " ".join(head.split())) + "\n" + reflow(body)


def foldoc(entry):
    """Head words and explanation; no subject tags, dates, credits, or brackets around references."""
    entry = re.sub(r"\n\s*(\(\d{4}-\d\d-\d\d\)|\[\{?Jargon File\}?\]\.?)\s*(?=\n|$)", "\n", entry)
    entry = re.sub(r"^( +(?:\d+\. )?)<[a-z, -]+>\s+", r"\1", entry, flags=re.M)
    head, _, body = entry.replace("{", "").replace("}", "").partition("\n\n")
    return " / ".join(head.split("\n")) + "\n" + reflow(body)


def reflow(body):
    """Paragraphs of 78 columns; those indented by more than seven, quotations, by four."""
    rows = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s+(?:\d+\.|\([a-z]\)) )", body):
        if paragraph.strip():
            margin = len(paragraph.lstrip("\n")) - len(paragraph.lstrip())
            rows.append("\n".join(wrap(paragraph.split(), "    " if margin > 7 else "")))
    return "\n\n".join(rows)


LICENCE = re.compile(r"copyright|licen[sc]e|warranty|all rights reserved|redistribut|SPDX|internal header "
                     r"file|http://mozilla.org/MPL|this file is part of|Under Section 7", re.I)


def header(source):
    """A header without the licences among its first comments and without editor lines."""
    source = source.replace("\r\n", "\n").expandtabs(8)
    comments = re.match(r"(?:\s*(?:/\*.*?\*/|//[^\n]*))*", source, re.S)
    kept = []
    for comment in re.findall(r"/\*.*?\*/|(?:[ ]*//[^\n]*\n?)+", comments[0], re.S):
        comment = re.sub(r"\s*-\*-.*?-\*-", "", comment).strip()
        if len(comment) > 12 and not LICENCE.search(comment):
            kept.append(comment)
    return "\n".join([*kept, source[comments.end():].strip("\n")]).strip("\n")
