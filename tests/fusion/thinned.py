"""Models whose visual tokens thin out, and what they must agree with: all tokens in place, and the left ones unseen."""

from dataclasses import replace

import torch

from foveal.core.types import Batch, Layout, VisualTokens
from foveal.fusion.dense_sparse import kept
from foveal.layers.masks import attention_mask
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

SEEN, WORDS, DEPTH = 6, 40, 4
SELECTORS = ["learned", "attention", "norm", "random", "uniform", "relevance"]


def model_of(language="decoder", *, over="prefix", **settings):
    torch.manual_seed(0)
    sizes = {"vocabulary": WORDS, "width": 16, "depth": DEPTH, "heads": 2, "inner": 24, "context": 128}
    sizes |= {"decoder": {"kv_heads": 1}, "gpt": {"rope": {}}}.get(language, {})
    fusion = {"name": "dense_sparse", "over": over, **settings}
    parts = {"features": SEEN, "connector": "linear", "fusion": fusion, "language": {"name": language, **sizes}}
    model = assemble(ModelConfig.parse(parts)).eval()
    for weight in model.language.parameters():  # louder than fresh ones, so that tokens differ in what they are worth
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return model


def images(*counts, seed=1):
    layout = Layout(counts=counts, grids=(None,) * len(counts))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(layout.total, SEEN, generator=generator)
    worth = torch.rand(layout.total, generator=generator)
    return replace(VisualTokens.on_layout(features, layout), relevance=worth)


def batch_of(rows, visual, *, side="right", answers=0, **parts):
    """Rows of words (their ids) and images (-1 - number); the last `answers` words of each are no prompt."""
    counts, starts = visual.layout.counts, visual.layout.offsets
    spans = {x: [(39, starts[-1 - x] + i) for i in range(counts[-1 - x])] for x in range(-len(counts), 0)}
    made = [[token for x in row for token in spans.get(x, [(x, -1)])] for row in rows]
    width = max(map(len, made))
    ids, slots = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -1)
    prompt = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(made):
        first = 0 if side == "right" else width - len(row)
        ids[i, first : first + len(row)] = torch.tensor([one for one, _ in row])
        slots[i, first : first + len(row)] = torch.tensor([slot for _, slot in row])
        prompt[i, first : first + len(row) - answers] = True
    valid = ids > 0
    owners = [next((i for i, row in enumerate(rows) if -1 - n in row), 0) for n in range(len(counts))]
    return Batch(
        input_ids=ids, valid=valid, prompt=prompt, image_slot=slots, visual=visual, full=bool(valid.all()),
        owner=torch.tensor(owners), **parts,
    )  # fmt: skip


ROWS = [[7, -1, 5, 4, -2, 3, 2, 6], [-3, 8, 9, 3], [6, 7, 8, 9, 4], [5, 4, -4, 9, 3, 2]]
IMAGES = (8, 3, 12, 5)


def alive_of(model, batch, layer, stream, alive, share):
    """What is left, image after image in plain loops."""
    fusion, left, layout = model.fusion, alive.clone(), batch.visual.layout
    for row in range(len(left)):
        prompt = (batch.prompt[row] & batch.valid[row]).nonzero()[-1:, 0].tolist()
        for image, count in enumerate(layout.counts):
            first = layout.offsets[image]
            here = (batch.image_slot[row] >= first) & (batch.image_slot[row] < first + count)
            places = (here & alive[row]).nonzero()[:, 0].tolist()
            if not places:
                continue
            asker, most = max([*prompt, places[-1]]), min(len(places), kept(count, share))
            states = stream.hidden[row, places]
            if fusion.by == "learned":
                worth = fusion.scorers[str(layer)](states[None])[0]
            elif fusion.by == "norm":
                worth = states.norm(dim=-1)
            elif fusion.by == "relevance":
                worth = batch.visual.relevance[batch.image_slot[row, places]]
            elif fusion.by == "attention":
                layers = model.language.layers[layer]
                told = replace(stream, mask=stream.mask & alive[:, None, None])
                worth = layers.shares(told, torch.full((len(left), 1), asker))[row, 0, places]
            else:
                raise AssertionError
            worth = [(asker == place, float(one), -place) for place, one in zip(places, worth, strict=True)]
            staying = {-place for _, _, place in sorted(worth, reverse=True)[:most]}
            left[row, [place for place in places if place not in staying]] = False
    return left


@torch.no_grad()
def in_place(model, batch):
    """Logits where all tokens stay in their places and those that have left are seen by none; and who is left."""
    visual, length = model.see(batch), batch.input_ids.shape[1]
    stream = model.fusion.over.at_input(model.language.open(replace(batch, fan=None)), visual)
    told = {"order": batch.order, "segment": batch.segment, "branch": batch.branch}
    mask = attention_mask(batch.valid, queries=length, **told)
    stream, alive, itself = model.language.enter(replace(stream, mask=mask)), batch.valid, torch.eye(length).bool()
    for index, layer in enumerate(model.language.layers):
        stream = model.fusion.over.at_layer(index, stream)
        if index in model.fusion.cuts:
            alive = alive_of(model, batch, index, stream, alive, model.fusion.cuts[index])
        seen = mask & alive[:, None, None]
        told = layer(replace(stream, mask=seen | (~seen.any(-1, keepdim=True) & itself)))
        stream = stream.with_hidden(told.hidden)
    return model.head(model.language.norm(stream.hidden)), alive


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def row_of(batch, i):
    """A row by itself, without its padding; the batch's images are all there."""
    names, valid = ("input_ids", "valid", "prompt", "image_slot"), batch.valid[i]
    return replace(batch, **{name: getattr(batch, name)[i : i + 1, valid] for name in names}, full=True)


def longer(batch, new):
    """The batch with words after it that are no prompt."""
    none = torch.full_like(new, -1)
    parts = {"input_ids": new, "valid": new > 0, "prompt": new < 0, "image_slot": none}
    joined = {name: torch.cat([getattr(batch, name), part], dim=1) for name, part in parts.items()}
    return replace(batch, **joined, full=False)


def step(new, full=False):
    everywhere = torch.ones_like(new) > 0
    return Batch(
        input_ids=new, valid=everywhere, prompt=~everywhere, image_slot=torch.full_like(new, -1), full=full
    )  # fmt: skip


def plain_of(model):
    plain = assemble(ModelConfig.parse({**model.config.dump(), "fusion": "prefix"})).eval()
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if "scorers" not in name})
    return plain
