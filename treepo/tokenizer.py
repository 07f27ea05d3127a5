"""A character-level tokenizer for the small policies: one token a printable ASCII character.

It knows characters and the opening of a boxed answer; it knows nothing about problems or models.
It works without a network and its files are the same bytes every time.
"""

import transformers
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
BOXED = "\\boxed{"
CHARACTERS = ("\n", *map(chr, range(0x20, 0x7F)))
VOCABULARY = {token: number for number, token in enumerate((PAD, EOS, UNK, BOXED, *CHARACTERS))}


def character_tokenizer() -> transformers.PreTrainedTokenizerFast:
    r"""The tokenizer of 100 tokens: three special ones, `\boxed{`, newline, printable ASCII.

    Text without characters outside the vocabulary comes back from encode and decode unchanged;
    any other character (a tab, a letter with an accent) becomes `<unk>`. Nothing is added before
    or after a text. The literal text `<eos>` is encoded as five characters, not as the special
    token, so that a problem cannot end a prompt.
    """
    backend = Tokenizer(WordLevel(VOCABULARY, unk_token=UNK))
    backend.pre_tokenizer = Split(Regex(r"\\boxed\{|[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
