#!/usr/bin/env python3
"""Trains tiny tokenizers of every kind and stores what the reference makes of nasty texts.

usage: make_tokenizer_golden.py OUT_DIR [TOKENIZER.json NAME]...
       (needs the PyPI packages tokenizers and sentencepiece)

For each tokenizer: NAME.json or NAME.model, and NAME.cases: for each text a line
  hex of the text in UTF-8 TAB ids, special tokens added and (but for .model) parsed TAB ids, neither
  TAB hex of the decoded text of the first (of the second for .model)
"-" stands for what we do not want as the reference has it: a user's text that becomes a special token
(unigram), added tokens that decode to their normalized form.
"""
import io
import os
import random
import sys

import sentencepiece as spm
import tokenizers as tk
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

LICENSE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "LICENSE")
SENTENCES = """Der schnelle braune Fuchs springt über den faulen Hund. Größe, Maß und Übermut!
Le cœur a ses raisons que la raison ne connaît point ; déjà vu, où ça ? À bientôt.
El niño comió piñas mañana. ¿Qué tal? ¡Olé!
Съешь же ещё этих мягких французских булок, да выпей чаю.
我能吞下玻璃而不伤身体。今天天气很好，我们去公园散步吧。
私はガラスを食べられます。それは私を傷つけません。カタカナ ひらがな
나는 유리를 먹을 수 있어요. 그래도 아프지 않아요.
أنا قادر على أكل الزجاج و هذا لا يؤلمني. ١٢٣٤٥
אני יכול לאכול זכוכית וזה לא מזיק לי.
मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती. १२३
ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ
Μπορώ να φάω σπασμένα γυαλιά χωρίς να πάθω τίποτα.
int main(void) { for (int i = 0; i < 1024; ++i) printf("%d\\n", i * 3 + 17); return 0; }
def f(x):\n    return [y ** 2 for y in x if y % 7 == 0]  # it's, we'll, they've, I'M, CAN'T
1 22 333 4444 55555 3.14159 1,000,000 2024-05-17 0xdeadbeef   \t\t  \n\n\n  end
"""
NASTY = ["", " ", "  ", "   a", "a   ", "\n", "\r\n", "\n\n \n", "\t", " \t\n\r\x0b\x0c", "\u00a0", "\u3000x\u3000",
         "\u180e", "a\u180eb", "\u200b", "\u200d", "\ufeff", "\x00", "\x01\x7f\x80\x9f", "\ufffd", "\u2028\u2029",
         "'s 'S '\u017f 'RE 'Ll 'x", "\u00bd\u00b2\u2460\u216b\u0661\u0967", "e\u0301 \u00e9 \u1e9b\u0323 \u212b",
         "\u0345\u0300\u0301" * 5, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
         "\U0001f44b\U0001f3fd", "\ufb01\ufb03 \uff21\uff11 \u3300 \ufdfa", "\u1100\u1161\u11a8 \uac01",
         "a" * 100, " " * 100, "\n" * 60, "ab" * 70, "=" * 80, "\u4e00" * 50, "!?" * 30, "1" * 40,
         "<s>", "</s>", "<unk>", "<|special|>", "a<|special|>b", "  <|special|>  ", "<|special|><|special|>",
         "wordy word words word", "xwordx word.word", " [MASK] ", "x [MASK]  y", "a [L] b", "a  [R]  b", "ADDED added",
         "<0x41><0x0A>", "\u2581", "\u2581\u2581a \u2581b", "\U0010ffff\ue000\U000f0000", "\u0130I\u0131i \u00df\u1e9e",
         "Hello world", "Hello, y'all! How are you \U0001f601 ?", "ied 4 \u00bd months", "foo_bar-baz/qux.c:12"]
POOLS = [range(0x20, 0x7f), range(0x20, 0x7f), range(0xa0, 0x180), range(0x300, 0x370), range(0x370, 0x530),
         range(0x590, 0x700), range(0x900, 0x980), range(0xe00, 0xe80), range(0x1100, 0x1200), range(0x2000, 0x2070),
         range(0x2070, 0x2200), range(0x3000, 0x3100), range(0x4e00, 0x4f00), range(0xac00, 0xac80),
         range(0xfb00, 0xfb50), range(0xfe00, 0xff70), range(0x1f300, 0x1f650), range(0x1d400, 0x1d500)]
WORDS = SENTENCES.split() + ["<|special|>", "<s>", "</s>", "[MASK]", "[L]", "[R]", "word", "ADDED", "\u2581", " ",
                             "  ", "\n", "\r\n", "\t", "'s", "123", "4567", "\u00a0", "\u3000", "!!!"]


def text(rng):
    """A random text: words, or characters of a few scripts, or runs."""
    out = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.random()
        if kind < 0.4:
            out.append(rng.choice(WORDS) + rng.choice(["", " ", " ", "  ", "\n"]))
        elif kind < 0.8:
            pool = rng.choice(POOLS)
            out.append("".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, 8))))
        elif kind < 0.9:
            out.append(rng.choice(NASTY))
        elif kind < 0.95:
            out.append(chr(rng.choice(rng.choice(POOLS))) * rng.randint(2, 70))
        else:
            c = rng.randrange(0x110000)
            out.append(chr(c if not 0xd800 <= c < 0xe000 else 0x20))
    return "".join(out)


def corpus():
    with open(LICENSE) as f:
        return (f.read() + SENTENCES * 8).split("\n")


QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
ADDED = [AddedToken("[MASK]", lstrip=True, normalized=False, special=True),
         AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=True),
         AddedToken("word", single_word=True, normalized=False), AddedToken("ADDED", normalized=True)]


def byte_level(pre, normalizer=None, ignore_merges=False, bos=None):
    t = tk.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<|special|>", "<s>", "</s>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    t.add_tokens(ADDED)
    if bos:
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A $B",
                                          special_tokens=[("<s>", 1), ("</s>", 2)])])
    return t


def chars(pre, normalizer, decoder, fallback=True, fuse=True, **more):
    t = tk.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback, fuse_unk=fuse, **more))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    if decoder:
        t.decoder = decoder
    specials = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % i for i in range(256)] if fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=specials, limit_alphabet=200,
                                  show_progress=False, **more)
    lines = corpus()
    if not pre:  # else merges would span whole lines
        lines = [w for line in lines for w in line.replace(" ", " \u2581").split(" ")]
    t.train_from_iterator(lines, trainer)
    t = strip_specials(t, ["<unk>", "<s>", "</s>"])
    t.add_tokens(ADDED)
    return t


def strip_specials(t, keep):
    """Byte tokens are the model's, not added ones, in the files of real models."""
    import json
    doc = json.loads(t.to_str())
    doc["added_tokens"] = [a for a in doc["added_tokens"] if a["content"] in keep]
    return tk.Tokenizer.from_str(json.dumps(doc))


LLAMA = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                           decoders.Strip(" ", 1, 0)])


def unigram(normalizer, fallback):
    t = tk.Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
                                      show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    import json
    doc = json.loads(t.to_str())
    if fallback:
        doc["model"]["byte_fallback"] = True
        doc["model"]["vocab"] += [["<0x%02X>" % i, 0.0] for i in range(256)]
        doc["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, doc["decoder"]]}
        doc["decoder"]["decoders"].reverse()
    t = tk.Tokenizer.from_str(json.dumps(doc))
    t.add_tokens(ADDED[:2])
    return t


def json_tokenizers():
    p, n = pre_tokenizers, normalizers
    yield "byte_gpt2", byte_level(p.ByteLevel(add_prefix_space=True), bos=True)
    yield "byte_qwen", byte_level(p.Sequence([p.Split(Regex(QWEN), "isolated"),
                                              p.ByteLevel(add_prefix_space=False, use_regex=False)]), n.NFC())
    yield "byte_llama3", byte_level(
        p.Sequence([p.Split(Regex(QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")), "isolated"),
                    p.ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True, bos=True)
    yield "byte_falcon", byte_level(p.Sequence([p.Punctuation("contiguous"), p.ByteLevel(add_prefix_space=False),
                                                p.Digits(individual_digits=True),
                                                p.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))
    yield "byte_splits", byte_level(
        p.Sequence([p.Split(Regex(r"[\r\n]"), "merged_with_previous"), p.Split(Regex(r"\s?\p{L}+"), "isolated"),
                    p.Split(Regex(r"\p{P}+"), "merged_with_next"), p.Split("a", "removed"),
                    p.Split(Regex(r"[^\s]+"), "contiguous", invert=True), p.Digits(),
                    p.ByteLevel(add_prefix_space=False, use_regex=False)]),
        n.Sequence([n.NFKD(), n.StripAccents(), n.Lowercase(), n.Replace(Regex(r"\s{2,}"), " "), n.Strip()]))
    yield "spm_llama", chars(None, n.Sequence([n.Prepend("\u2581"), n.Replace(" ", "\u2581")]), LLAMA)
    yield "meta_first", chars(p.Metaspace(prepend_scheme="first"), None, decoders.Metaspace(prepend_scheme="first"))
    yield "meta_never", chars(p.Metaspace(prepend_scheme="never", split=False), n.NFKC(),
                              decoders.Metaspace(prepend_scheme="never"), fallback=False)
    yield "meta_unk", chars(p.Metaspace(), n.NFD(), decoders.Metaspace(), fallback=False, fuse=False)
    yield "word_suffix", chars(p.Sequence([p.Whitespace()]), n.Lowercase(), None, fallback=False, fuse=False,
                               end_of_word_suffix="</w>")
    yield "unigram_nfkc", unigram(n.Sequence([n.Nmt(), n.NFKC(), n.Replace(Regex(" {2,}"), " ")]), True)
    yield "unigram_plain", unigram(n.NFC(), False)


def spm_models():
    def train(**more):
        out = io.BytesIO()
        options = dict(vocab_size=600, character_coverage=0.98, hard_vocab_limit=False, minloglevel=2)
        options.update(more)
        spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, **options)
        return out.getvalue()
    yield "sp_bpe", train(model_type="bpe", byte_fallback=True, vocab_size=900, normalization_rule_name="identity",
                          remove_extra_whitespaces=False, split_digits=True)
    yield "sp_bpe_nfkc", train(model_type="bpe", normalization_rule_name="nmt_nfkc",
                               user_defined_symbols=["word", "ADDED", "  "])
    yield "sp_unigram", train(model_type="unigram", normalization_rule_name="nmt_nfkc")
    yield "sp_unigram_bytes", train(model_type="unigram", byte_fallback=True, vocab_size=700,
                                    normalization_rule_name="identity", user_defined_symbols=["word", "[L]"],
                                    add_dummy_prefix=False, remove_extra_whitespaces=False)


def case_json(t, s):
    t.encode_special_tokens = False
    a = t.encode(s, add_special_tokens=True).ids
    decoded = t.decode(a, skip_special_tokens=False)
    t.encode_special_tokens = True
    b = t.encode(s, add_special_tokens=False).ids
    special = [i for i, token in t.get_added_tokens_decoder().items() if token.special]
    if any(i in special for i in b):
        b = None
    if any(token.normalized and i in a for i, token in t.get_added_tokens_decoder().items()):
        decoded = None
    return a, b, decoded


def case_spm(sp, s):
    ids = sp.encode(s)
    decoded = None if sp.unk_id() in ids else sp.decode(ids)
    return [sp.bos_id()] + ids, ids, decoded


def write_cases(path, make, n):
    rng = random.Random(7)
    texts = NASTY + SENTENCES.split("\n") + [text(rng) for _ in range(n)]
    with open(path, "w") as out:
        for s in texts:
            a, b, decoded = make(s)
            out.write("%s\t%s\t%s\t%s\n" % (
                s.encode().hex(), " ".join(map(str, a)), "-" if b is None else " ".join(map(str, b)),
                "-" if decoded is None else decoded.encode().hex()))


def main():
    folder = sys.argv[1]
    made = list(json_tokenizers())
    for i in range(2, len(sys.argv) - 1, 2):
        made.append((sys.argv[i + 1], tk.Tokenizer.from_file(sys.argv[i])))
    for name, t in made:
        t.save(os.path.join(folder, name + ".json"), pretty=False)
        write_cases(os.path.join(folder, name + ".cases"), lambda s: case_json(t, s), 60)
    for name, blob in spm_models():
        with open(os.path.join(folder, name + ".model"), "wb") as out:
            out.write(blob)
        sp = spm.SentencePieceProcessor(model_proto=blob)
        write_cases(os.path.join(folder, name + ".cases"), lambda s: case_spm(sp, s), 60)


if __name__ == "__main__":
    main()
