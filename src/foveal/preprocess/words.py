"""A tokenizer of whole words for models from scratch: one token a word, and one for each phrase that is one name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<eos>", "<image>", "<system>", "<user>", "<assistant>")
MASK = "<mask>"


def word_tokenizer(
    texts: Iterable[str],
    *,
    phrases: Iterable[str] = (),
    least: int = 1,
    mask: bool = False,
    special: Iterable[str] = (),
) -> "PreTrainedTokenizerFast":
    """A tokenizer of the words of `texts` seen `least` times or more, lower-cased, punctuation apart.

    Each of `phrases` ("red apple") is one token wherever it stands as whole words. A word it does not know is
    `<unk>`; with `mask` it has a `<mask>` too, and `special` words that no text holds. Saves and loads as any tokenizer
    of transformers does.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = _bare()
    counts: dict[str, int] = {}
    names = tuple(dict.fromkeys(_plain(tokenizer, phrase) for phrase in phrases))
    for text in (*names, *texts):
        for word in _words(tokenizer, text):
            counts[word] = counts.get(word, 0) + 1
    special = tuple(dict.fromkeys((*SPECIAL, *([MASK] if mask else []), *special)))  # ids without a gap
    known = {name for name in names if len(_words(tokenizer, name)) > 1}
    kept = sorted(
        word for word, count in counts.items() if (count >= least or word in names) and word not in (*special, MASK)
    )
    vocabulary = {token: index for index, token in enumerate((*special, *kept, *sorted(known)))}
    tokenizer.model = models.WordLevel(vocabulary, unk_token="<unk>")
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in sorted(known)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        mask_token=MASK if mask else None,
        additional_special_tokens=["<image>", "<system>", "<user>", "<assistant>", *special[len(SPECIAL) + mask :]],
        clean_up_tokenization_spaces=False,  # the decoder has done it
    )


def _bare() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def _plain(tokenizer: Tokenizer, phrase: str) -> str:
    """Lower case and single spaces, as the phrase reads after normalisation."""
    return " ".join(tokenizer.normalizer.normalize_str(phrase).split())
