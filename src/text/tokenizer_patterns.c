/* The cuts of well-known byte-level tokenizers, for files that only name them. */
#include "text/tokenizer_priv.h"

#define PATTERN_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_TAIL  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define PATTERN_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define PATTERN_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define PATTERN_LEAD  "[^\\r\\n\\p{L}\\p{N}]?"
/* Words end where the case changes; `after` may follow each. */
#define PATTERN_CASED(after)                                                              \
    PATTERN_LEAD PATTERN_UPPER "*" PATTERN_LOWER "+" after "|" PATTERN_LEAD PATTERN_UPPER \
                               "+" PATTERN_LOWER "*" after
#define PATTERN_SLASH_TAIL " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_CJK                                       \
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80" \
    "\xea\xb0\x80-\xed\x9f\xbf]+"

static const char *const PATTERNS_GPT2[] = {PATTERN_GPT2};
static const char *const PATTERNS_LLAMA3[] = {PATTERN_SHORT "|" PATTERN_LEAD
                                                            "\\p{L}+|\\p{N}{1,3}|" PATTERN_TAIL};
static const char *const PATTERNS_QWEN2[] = {PATTERN_SHORT "|" PATTERN_LEAD
                                                           "\\p{L}+|\\p{N}|" PATTERN_TAIL};
static const char *const PATTERNS_QWEN35[] = {
    PATTERN_SHORT "|" PATTERN_LEAD
                  "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                  "\\s+(?!\\S)|\\s+"};
static const char *const PATTERNS_CL100K[] = {
    "'(?i:[sdmt]|ll|ve|re)|" PATTERN_LEAD
    "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"};
static const char *const PATTERNS_O200K[] = {
    PATTERN_CASED(PATTERN_SHORT "?") "|\\p{N}{1,3}|" PATTERN_SLASH_TAIL};
static const char *const PATTERNS_TEKKEN[] = {PATTERN_CASED("") "|\\p{N}|" PATTERN_SLASH_TAIL};
static const char *const PATTERNS_STARCODER[] = {"\\p{N}", PATTERN_GPT2};
static const char *const PATTERNS_FALCON[] = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", PATTERN_GPT2,
                                              "[0-9][0-9][0-9]"};
static const char *const PATTERNS_DEEPSEEK_CODER[] = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                                      PATTERN_CJK, "\\p{N}"};
static const char *const PATTERNS_DEEPSEEK_LLM[] = {
    "[\\r\\n]",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-"
    "ՖႠ-"
    "ჅᎠ-"
    "Ᏽᏸ-"
    "ᏽᲐ-"
    "ᲺᲽ-"
    "Ჿᴀ-"
    "ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    "Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-"
    "ꚛꜢ-"
    "ꝯ"
    "ꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-"
    "𐳲𑢠-"
    "𑣟𞤀-"
    "𞥃]"
    "+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "\\s+$",
    PATTERN_CJK,
    "\\p{N}+"};
static const char *const PATTERNS_DEEPSEEK_V3[] = {
    "\\p{N}{1,3}", "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
    ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{"
     "M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")};
static const char *const PATTERNS_BLOOM[] = {" ?[^(\\s|.,!?…。，、।۔،)]+"};

typedef struct PatternsRow {
    const char *names; /* parted by spaces */
    const char *const *patterns;
    size_t n;
    bool nfc, ignore_merges;
} PatternsRow;

#define PATTERNS_ROW(names, patterns, nfc, ignore_merges) \
    { names, patterns, ARRAY_LEN(patterns), nfc, ignore_merges }

static const PatternsRow PATTERNS_TABLE[] = {
    PATTERNS_ROW("gpt-2 gpt2 default mpt olmo jais phi-2 roberta-bpe gigachat gpt-neox "
                 "trillion granite-docling bailingmoe-gpt2",
                 PATTERNS_GPT2, false, false),
    PATTERNS_ROW("llama-bpe llama3 llama-v3 llama4-bpe-3 falcon3 falcon-h1 pixtral-llama "
                 "lfm2 midm-2.0",
                 PATTERNS_LLAMA3, false, true),
    PATTERNS_ROW("dbrx smaug-bpe chatglm-bpe glm4 kormo", PATTERNS_LLAMA3, false, false),
    PATTERNS_ROW("cl100k", PATTERNS_CL100K, false, false),
    PATTERNS_ROW("qwen2 deepseek-r1-qwen megrez kormo-qwen", PATTERNS_QWEN2, true, false),
    PATTERNS_ROW("stablelm2 hunyuan-qwen", PATTERNS_QWEN2, false, false),
    PATTERNS_ROW("qwen35", PATTERNS_QWEN35, true, false),
    PATTERNS_ROW("gpt-4o llama4 o200k", PATTERNS_O200K, false, false),
    PATTERNS_ROW("tekken", PATTERNS_TEKKEN, false, true),
    PATTERNS_ROW("starcoder refact command-r smollm codeshell exaone minerva-7b granite",
                 PATTERNS_STARCODER, false, false),
    PATTERNS_ROW("falcon", PATTERNS_FALCON, false, false),
    PATTERNS_ROW("deepseek-coder", PATTERNS_DEEPSEEK_CODER, false, false),
    PATTERNS_ROW("deepseek-llm", PATTERNS_DEEPSEEK_LLM, false, false),
    PATTERNS_ROW("deepseek-v3 hunyuan-dense joyai-llm", PATTERNS_DEEPSEEK_V3, false, false),
    PATTERNS_ROW("bloom poro-chat gpt3-finnish", PATTERNS_BLOOM, false, false),
};

const char *const *tokenizer_patterns(Str name, size_t *n, bool *nfc, bool *ignore_merges) {
    for (size_t i = 0; i < ARRAY_LEN(PATTERNS_TABLE); i++) {
        const PatternsRow *row = &PATTERNS_TABLE[i];
        Str names = str_from(row->names);
        while (names.len > 0) {
            size_t end = MIN(str_find(names, STR_LIT(" "), 0), names.len);
            if (str_eq(str_slice(names, 0, end), name)) {
                *n = row->n;
                *nfc = row->nfc;
                *ignore_merges = row->ignore_merges;
                return row->patterns;
            }
            names = str_slice(names, end + 1, names.len);
        }
    }
    return NULL;
}
