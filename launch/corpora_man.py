"""Plain text of manual pages in troff's man macros."""
import re

GLYPHS = dict(zip(
    "bu em en co aq dq rs ti ha lq rq oq cq -> <- Fo Fc +- mu >= <= at hy ga aa rg tm de mc".split(),
    "• — – © ' \" \\ ~ ^ “ ” ‘ ’ → ← « » ± × ≥ ≤ @ - ` ´ ® ™ ° µ".split()))
GLYPHS |= dict(zip("pl mi eq sl ra la ss is if pd ts *a *b *p *m *w **".split(),
                   "+ - = / ⟩ ⟨ ß ∫ ∞ ∂ ς α β π µ ω *".split()))
GLYPHS |= {":" + a: b for a, b in zip("aouAOU", "äöüÄÖÜ")}
GLYPHS |= {"'" + a: b for a, b in zip("aeiou", "áéíóú")}
STRINGS = {"lq": "“", "rq": "”", "Aq": "'", "R": "®", "Tm": "™", "C+": "C++", "--": "–",
           'L"': "“", 'R"': "”"}
SINGLE = {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", "E": "\\", "\\": "\\", "'": "'", "`": "`",
          ".": ".", "t": "    ", "_": "_"}
ESCAPE = re.compile(r"""\\(?:
    [fFmMsg](?:[-+]?\[[^]]*\]|\(..|[-+]?'[^']*'|[-+]?\d\d?|.)    # fonts, colours, sizes
  | n[-+]?(?:\[[^]]*\]|\(..|.)                                # number registers
  | [hvwDlLxXbAR]'[^']*'                                      # motions, drawings
  | \*(?:\[(?P<string3>[^]]*)\]|\((?P<string2>..)|(?P<string1>.))
  | \[(?P<glyph>[^]]*)\] | \((?P<glyph2>..)
  | (?P<single>.)
  )""", re.X)
IGNORED = set("ad na nh hy ne ll ss PD in ti ta ft nr ds tr IX UC TH fam als rm rr nop ns rs cs ec eo "
              "cc c2 DT B1 B2 ev pl po bp hla hlm hw mso warn lf ce ps vs tm rn it AT".split())
BREAKS = set("PP P LP sp br RS RE HP Sp Ip fi nf EX EE Vb Ve".split())
SKIPPED_TO = {"TS": ".TE", "EQ": ".EN", "PS": ".PE", "de": "..", "de1": "..", "am": "..", "ig": ".."}
# Credits, licences and addresses, which pages share.
DROPPED = re.compile(
    r"^(ÜBERSETZUNG|COPYRIGHT|AUTOR(EN)?|FEHLER MELDEN|FEHLERBERICHTE|DANKSAGUNG(EN)?|KOLOPHON"
    r"|LIZENZ|BIBLIOTHEK|VERFÜGBARKEIT|SIEHE AUCH|WARENZEICHEN|ÜBERSETZER|COLOPHON|AUTHORS?|SEE ALSO"
    r"|REPORTING BUGS|この文書について|著作権|著者|作者|バグ報告|翻訳.*|謝辞|関連項目|ライセンス|免責"
    r"|入手方法|.*の報告|サポート)$", re.I)
CREDIT = re.compile(r"translationproject\.org|Linux Kernel Archive|Linux man-pages|coreutils/>")
ENGLISH = re.compile(r"\b(the|of|is|are|to|and|this|that|be|by|which|with|for)\b")
GERMAN = re.compile(r"\b(der|die|das|und|ist|nicht|ein|eine|wird|den|von|mit|zu|werden)\b")
WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def unescape(text):
    def plain(match):
        string = match["string1"] or match["string2"] or match["string3"]
        if string is not None:
            return STRINGS.get(string, GLYPHS.get(string, ""))
        glyph = match["glyph"] or match["glyph2"]
        if glyph is not None:
            return GLYPHS.get(glyph, glyph if len(glyph) == 1 else "")
        single = match["single"]
        if single is None:
            return ""
        return SINGLE.get(single, "" if single.isascii() else single)

    return ESCAPE.sub(plain, text)


def arguments(text):
    found = re.findall(r'"((?:[^"]|"")*)"?|((?:\\.|[^ \\])+|\\$)', text)
    return [unescape(quoted.replace('""', '"') or bare) for quoted, bare in found]


def wrap(words, margin, width=78):
    lines, line = [], margin
    for word in words:
        if len(line) > len(margin) and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = margin
        line += word if len(line) == len(margin) else " " + word
    return lines + [line]


class Page:
    """Paragraphs of a page as they are read. `lines` are ready; `words` is the open paragraph."""

    def __init__(self, language):
        self.language = language
        self.lines, self.words = [], []
        self.margin, self.fill, self.gap, self.glue = "", True, False, False
        self.tag = self.heading = self.dropped = False
        self.foreign = self.native = self.unknown = 0
        self.link = ""

    def text(self, piece):
        if self.heading:
            self.heading = False
            return self.section(piece)
        if not self.fill:
            self.flush()
            return self.put([piece.rstrip()])
        if self.glue and self.words:
            self.words[-1] += piece
        else:
            self.words.append(piece)
        self.glue = False
        if self.tag:
            self.flush(filter=False)
            self.tag, self.margin = False, "    "

    def section(self, title):
        self.flush()
        self.dropped = bool(DROPPED.match(title.strip()))
        self.margin, self.gap = "", True
        self.put([title])
        self.gap = False

    def put(self, lines):
        if self.dropped:
            return
        if self.gap and self.lines and self.lines[-1]:
            self.lines.append("")
        self.gap = False
        self.lines += [self.margin + line if line else "" for line in lines]

    def flush(self, filter=True):
        words, self.words = self.words, []
        paragraph = self.joined(words)
        if not paragraph or self.dropped or CREDIT.search(paragraph):
            return
        if filter and self.is_foreign(paragraph):
            self.foreign += len(paragraph)
            return
        self.native += len(paragraph)
        self.put(self.broken(paragraph))

    def joined(self, pieces):
        text = re.sub(r"\s+", " ", "\n".join(pieces).replace("\n", " ")).strip()
        if self.language == "japanese":
            text = re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])", "", text)
        return text

    def broken(self, paragraph):
        if self.language == "japanese":  # a sentence a line
            return re.sub(r"(。)\s*(?![）)」』\s])", r"\1\n", paragraph).strip().split("\n")
        return wrap(paragraph.split(), "", 78 - len(self.margin))

    def is_foreign(self, paragraph):
        """What the translators left in English."""
        if self.language == "japanese":
            return not WIDE.search(paragraph) and len(ENGLISH.findall(paragraph)) >= 2
        return len(ENGLISH.findall(paragraph)) > 2 + len(GERMAN.findall(paragraph))

    def request(self, name, rest):
        if name in ("SH", "SS"):
            self.flush()
            title = " ".join(arguments(rest))
            if name == "SH":
                self.fill, self.tag = True, False
            self.heading = not title
            if title and name == "SH":
                self.section(title)
            elif title:
                self.margin, self.gap = "", True
                self.put([title])
        elif name in ("TP", "TQ"):
            self.flush()
            self.margin, self.tag, self.gap = "", True, self.gap or name == "TP"
        elif name == "IP":
            self.flush()
            tag = arguments(rest)[:1]
            self.margin, self.gap = "", True
            if tag and tag[0] in "•*-o–":
                self.words, self.margin = [tag[0]], ""
            elif tag and tag[0]:
                self.put([tag[0]])
                self.margin = "    "
        elif name in BREAKS:
            self.flush()
            self.tag = False
            self.fill = name in ("fi", "EE", "Ve") or (self.fill and name not in ("nf", "EX", "Vb"))
            self.gap = self.gap or name not in ("br", "fi", "nf", "RS")
            self.margin = "" if name in ("PP", "P", "LP", "RE", "HP") else self.margin
            self.margin = "    " if name == "RS" else self.margin
        elif name in ("B", "I", "SM", "SB", "R", "CW", "C"):
            if rest:
                self.text(" ".join(arguments(rest)))
        elif re.fullmatch("[BIRS][BIRM]", name):
            self.text("".join(arguments(rest)))
        elif name in ("UR", "MT"):
            self.link = unescape(rest)
        elif name in ("UE", "ME"):
            self.text(f"<{self.link}>" + unescape(rest))
        elif name in ("URL", "MTO"):
            link, words, after, *_ = [*arguments(rest), "", "", ""]
            self.text(f"{words} <{link}>{after}".strip())
        elif name == "OP":
            self.text("[" + " ".join(arguments(rest)) + "]")
        elif name == "SY":
            self.flush()
            self.text(" ".join(arguments(rest)))
        elif name == "YS":
            self.flush()
        elif name not in IGNORED:
            self.unknown += 1


def man_page(source, language):
    """Its text, or None for mdoc pages, pages with macros of their own and untranslated pages."""
    if re.search(r"^\.\s*(Sh|Dd)\b", source, re.M):
        return None
    page, until, depth = Page(language), None, 0
    for line in source.split("\n"):
        control = re.match(r"[.']\s*([A-Za-z]\w*)\s*(.*)", line)
        if until:
            until = None if line.startswith(until) else until
            continue
        if depth or (control and control[1] in ("if", "ie", "el", "while")):
            depth += line.count("\\{") - line.count("\\}")
            continue
        line = re.sub(r"(?<!\\)\\[\"#].*", "", line).rstrip("\r")
        if control:
            name, rest = control[1], re.sub(r"(?<!\\)\\[\"#].*", "", control[2]).strip()
            until = SKIPPED_TO.get(name)
            if name == "ig" and rest:
                until = "." + rest
            if not until:
                page.request(name, rest)
        elif line[:1] not in (".", "'"):
            if not line.strip() or (line[0] == " " and page.fill):
                page.flush()
                page.gap = page.gap or not line.strip()
            if line.strip():
                joined = line.endswith("\\c")
                page.text(unescape(line))
                page.glue = joined
    page.flush()
    text = "\n".join(page.lines)
    if language == "japanese" and len(WIDE.findall(text)) * 5 < len(text):
        return None
    return None if page.unknown > 3 or page.foreign > page.native else text
