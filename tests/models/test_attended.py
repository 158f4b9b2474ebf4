from dataclasses import replace

import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.fusion.gated_cross_attention import GatedCrossAttention
from foveal.layers.relaid import stretched
from foveal.models.attended import attended
from foveal.models.budget import budgeted
from foveal.models.glances import glances
from foveal.models.looks import looks
from tests.fusion.test_co_attention import model as two_streams
from tests.fusion.test_cross_modality import batch as several
from tests.fusion.test_gated_cross_attention import batch_of, images, model_of
from tests.tiny import tiny_run

QUESTION = "Where is the fox"


@pytest.fixture(scope="module")
def run():
    return tiny_run([QUESTION, "a b c"])


def asked(run, model, images=1):
    pictures = [Image.effect_noise((20, 28), 50).convert("RGB")] * images
    return run.processor.prompt([(pictures, QUESTION)], plan=model.plan)


def test_shares_are_the_means_of_what_its_layers_look_at(run):
    batch, kept = asked(run, run.model), []
    shares = attended(run.model, batch)

    def keep(part, given, named):
        kept.append(part.weights(*given, **{key: named[key] for key in ("mask", "rotary") if key in named}))

    hooks = [layer.attention.register_forward_pre_hook(keep, with_kwargs=True) for layer in run.model.language.layers]
    with torch.no_grad():
        run.model(batch)
    for hook in hooks:
        hook.remove()
    there = batch.image_slot[0] >= 0
    assert shares.shape == (16,) and 0 < float(shares.sum()) < 1
    torch.testing.assert_close(shares, torch.stack(kept).mean((0, 2))[0, -1, there])


def test_a_budget_is_looked_at_and_nothing_is_left_hooked(run):
    view = budgeted(run.model, 5)
    batch = asked(run, view)
    shares = attended(view, replace(batch, seen=view.see(batch)))
    assert shares.shape == (5,) and bool((shares > 0).all())
    placed = stretched(batch, view.see(batch))  # where the model itself reads them
    torch.testing.assert_close(shares, attended(run.model, replace(placed, seen=replace(view.see(batch), before=None))))
    assert not any(layer._forward_pre_hooks for layer in run.model.language.layers)


def test_gated_blocks_tell_what_their_glances_do():
    model, batch = model_of(every=1), batch_of([[7, -1, 5, 6]], images(4))
    assert isinstance(model.fusion, GatedCrossAttention)
    told = glances(model, batch)
    wanted = torch.stack([part[0, :, -1].mean(0) for part in told.shares.values()]).mean(0)
    torch.testing.assert_close(attended(model, batch), wanted)


@pytest.mark.parametrize("whole", [True, False])
def test_the_last_word_of_two_streams_tells_of_its_meetings(whole):
    made, both = two_streams(whole=whole), several()
    visual = VisualTokens.on_layout(both.visual.features[:2], Layout(counts=(2,), grids=(None,)))
    one = {name: getattr(both, name)[:1] for name in ("input_ids", "valid", "prompt", "image_slot", "owner")}
    batch = replace(both, visual=visual, **one)
    maps = looks(made, batch).to_sight
    wanted = torch.stack([part[0, :, 2].mean(0) for part in maps]).mean(0)[1 if whole else 0 :]
    shares = attended(made, batch)
    torch.testing.assert_close(shares, wanted)
    assert shares.shape == (2,) and bool((shares > 0).all())  # words stand before sight: the last place is no word


def test_what_cannot_be_told_is_refused(run):
    with pytest.raises(InputError, match="one question at a time"):
        attended(run.model, run.processor.prompt([([], QUESTION)] * 2, plan=run.model.plan))
    with pytest.raises(InputError, match="without images"):
        attended(run.model, run.processor.prompt([([], QUESTION)], plan=run.model.plan))
    memory = model_of(every=1)
    memory.fusion = type("Other", (torch.nn.Module,), {"apart": 3, "causal": True})()
    with pytest.raises(InputError, match="Other"):
        attended(memory, batch_of([[7, -1, 5, 6]], images(4)))
