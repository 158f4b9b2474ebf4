"""Answers together equal answers alone, over every family, and the line before the model."""

import threading
from contextlib import closing
from dataclasses import replace
from queue import SimpleQueue

import pytest
import torch
from PIL import Image

import foveal
from foveal.cli import _serve_table
from foveal.cli._serve_desk import Desk
from foveal.cli._serve_speaker import Job, Speaker
from foveal.cli._serve_table import answer
from foveal.cli._serve_told import Ended
from foveal.cli._serve_wish import Refusal, Wish
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.decode.generate import generate
from foveal.decode.sampling import greedy
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.region_files import RegionFiles
from foveal.weights.run import Run
from tests.cli.test_app_desk import FAMILIES, QUESTION, made
from tests.models.test_detect import detector
from tests.tiny import tiny_run, tiny_tokenizer

WORDS = [QUESTION, "yes no a fox top left bottom right one two three four"]


def picture(number, size=(20, 14)):
    pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(pixels.byte().numpy())


def said(*turns, images=(), **settings):
    """A wish of turns by user and assistant in turn; as many of the pictures as there are begin the first."""
    content = [[{"type": "text", "text": text}] for text in turns]
    content[0] = [*[{"type": "image"}] * len(images), *content[0]]
    roles = ("user", "assistant") * len(turns)
    messages = tuple({"role": role, "content": one} for role, one in zip(roles, content, strict=False))
    asked = Example(id="conversation", messages=messages, images=tuple(images))
    return Wish(**{"asked": asked, "most": 6, **settings})


def answered(speaker, *wishes):
    """What becomes of each wish, answered together: the words it was told, and how it ended."""
    jobs = [Job(wish) for wish in wishes]
    answer(speaker, jobs, together=len(jobs))
    return [told(job) for job in jobs]


def told(job):
    events = [job.events.get(timeout=60)]
    while isinstance(events[-1], str):
        events.append(job.events.get(timeout=60))
    assert job.events.empty()
    return "".join(events[:-1]), events[-1]


@pytest.fixture(scope="module")
def speaker():
    return Speaker(tiny_run(WORDS, context=120, seed=5), longest=40)


WISHES = [
    said(QUESTION, images=[picture(0)]),
    said("a fox", images=[picture(1), picture(2)]),
    said("one two three"),
    said("Where", "top left", "a fox", images=[picture(3)]),
]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"chosen"}))
@pytest.mark.parametrize("budget", [None, 3])
def test_together_as_alone_in_every_family(name, budget):
    speaker = Speaker(made(name), longest=40)
    if name == "gated":  # its latents are led, not cut
        budget = None
    wishes = [replace(wish, budget=budget) for wish in WISHES]
    together = answered(speaker, *wishes)
    assert together == [answered(speaker, wish)[0] for wish in wishes]
    assert all(isinstance(ended, Ended) for _, ended in together)
    one, two, none, three = (ended.answer.visual_tokens for _, ended in together)
    assert (two, none, three) == (2 * one, 0, one) and one > 0


def test_one_question_is_what_answer_says(speaker):
    for budget in (None, 5, 99):
        ((_, ended),) = answered(speaker, said(QUESTION, images=[picture(0)], budget=budget))
        alone = speaker.run.answer(picture(0), QUESTION, max_new_tokens=6, budget=budget)
        assert ended.answer == alone and ended.finish == ("length" if len(alone.token_ids) == 6 else "stop")


def test_several_turns_are_the_model_s_own_prompt(speaker):
    wish = WISHES[3]
    batch = speaker.processor.prompt([wish.asked], plan=speaker.model.plan)
    with torch.no_grad():
        ids = generate(speaker.model, batch, max_new_tokens=6, stop_ids=speaker.processor.stop_ids)[0].tolist()
    ((_, ended),) = answered(speaker, wish)
    assert list(ended.answer.token_ids) == ids and ended.prompt_tokens == int(batch.valid.sum())
    assert ended.usage["total_tokens"] == ended.prompt_tokens + len(ids)


def test_drawn_answers_are_their_seed_s_whoever_is_beside(speaker):
    hot = [replace(WISHES[0], temperature=2.0, seed=seed, most=12) for seed in (1, 2, 1)]
    cold = replace(WISHES[1], temperature=0.0, seed=1)
    (one, two, again, plain) = answered(speaker, *hot, cold)
    assert one == again != two
    assert one == answered(speaker, hot[0])[0] and plain == answered(speaker, WISHES[1])[0]
    narrow = replace(hot[0], top_p=1e-6)
    assert answered(speaker, narrow) == answered(speaker, replace(WISHES[0], most=12))


def test_a_stop_ends_an_answer_and_is_never_told(speaker):
    plain = answered(speaker, replace(WISHES[0], most=12))[0][1]
    whole = plain.answer.text
    words = whole.split()
    assert len(words) > 4
    stop = f"{words[1][-1]} {words[2]} {words[3][0]}"  # spans tokens
    for stops in ((stop,), ("nowhere", stop), (whole[-1:], stop), (words[0],), ("nowhere",)):
        cut = min((whole.find(one) for one in stops if one in whole), default=len(whole))
        wish = replace(WISHES[0], most=12, stops=stops, stream=True)
        ((streamed, ended),) = answered(speaker, wish)
        assert streamed == ended.answer.text == whole[:cut].rstrip()
        assert ended.finish == ("stop" if cut < len(whole) else plain.finish)
        assert len(ended.answer.token_ids) <= len(plain.answer.token_ids)
        ((silent, same),) = answered(speaker, replace(wish, stream=False))
        assert (silent, same) == ("", ended)


def test_the_server_s_most_and_the_context_end_an_answer(speaker):
    free = [replace(wish, most=None) for wish in WISHES[:1]]
    ((_, ended),) = answered(speaker, *free)
    assert len(ended.answer.token_ids) == 40 or ended.finish == "stop"
    tight = Speaker(tiny_run(WORDS, context=30), longest=40)
    both = answered(tight, *[replace(wish, most=999) for wish in (WISHES[0], WISHES[2])])
    assert both == [answered(tight, replace(wish, most=999))[0] for wish in (WISHES[0], WISHES[2])]
    for _, ended in both:
        assert ended.finish == "stop" or ended.usage["total_tokens"] == 30


def test_what_is_wrong_with_one_is_told_to_that_one_alone(speaker):
    long = said("one " * 200)
    (good, (_, error), other) = answered(speaker, WISHES[0], long, WISHES[2])
    assert isinstance(error, InputError) and "context" in str(error)
    assert [good, other] == [answered(speaker, wish)[0] for wish in (WISHES[0], WISHES[2])]
    ((_, error),) = answered(speaker, said("a <image> fox"))
    assert isinstance(error, InputError) and "1 <image> markers" in str(error)


def test_who_has_gone_is_not_written_for(speaker):
    gone, here = Job(replace(WISHES[0], stream=True)), Job(WISHES[1])
    gone.gone.set()
    answer(speaker, [gone, here], together=2)
    assert gone.events.empty() and told(here) == answered(speaker, WISHES[1])[0]


def test_a_run_that_chooses_answers_one_question():
    speaker = Speaker(made("chosen"), longest=40)
    ((words, ended),) = answered(speaker, said(QUESTION, images=[picture(0)], stream=True))
    assert words == ended.answer.text == speaker.run.answer(picture(0), QUESTION).text and ended.finish == "stop"
    assert ended.prompt_tokens > ended.answer.visual_tokens == 16
    ((_, error),) = answered(speaker, WISHES[3])
    assert isinstance(error, Refusal) and "one question at a time" in str(error)
    ((_, error),) = answered(speaker, said(QUESTION, images=[picture(0)], temperature=1.0))
    assert isinstance(error, Refusal) and error.param == "temperature"
    assert not speaker.alike(WISHES[0], WISHES[0])


def test_a_run_that_finds_things_tells_them():
    run = Run(*detector())
    speaker = Speaker(run, longest=40)
    ((words, ended),) = answered(speaker, said("detect", images=[picture(3)], stream=True, most=None))
    alone = run.answer(picture(3), "detect")
    assert words == ended.answer.text == alone.text and ended.answer.boxes == alone.boxes
    assert len(ended.beside["boxes"]) == len(alone.boxes) > 0 and ended.beside["visual_tokens"] == 16
    drawn = said("detect", images=[picture(3)], temperature=9.0, seed=1, most=None)
    assert answered(speaker, drawn) == answered(speaker, drawn)
    ((_, error),) = answered(speaker, said("detect", images=[picture(0), picture(1)], most=None))
    assert isinstance(error, InputError) and "give one" in str(error)
    ((_, error),) = answered(speaker, said(QUESTION, images=[picture(3)]))
    assert isinstance(error, InputError) and "answers no other words" in str(error)


def test_a_run_without_words_is_refused():
    with pytest.raises(InputError, match="answers no question"):
        Speaker(tiny_tokenizer(), longest=40)
    run = tiny_run(WORDS)
    run.processor = Processor(
        tokenizer=run.processor.tokenizer, config=ProcessorConfig(region_files=RegionFiles(width=16))
    )  # fmt: skip
    with pytest.raises(InputError, match="made elsewhere"):
        Speaker(run, longest=40)


def test_a_checkpoint_s_own_settings_choose_words_where_nobody_says(tmp_path):
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, vocab_size=40, eos_token_id=2)
    theirs = transformers.LlamaForCausalLM(config)
    theirs.generation_config = transformers.GenerationConfig(do_sample=True, temperature=3.0, max_new_tokens=5)
    theirs.save_pretrained(tmp_path)
    tiny_run(WORDS).processor.tokenizer.save_pretrained(tmp_path)
    run = foveal.load(tmp_path)
    speaker = Speaker(run, longest=40)
    assert speaker.usual == 5
    draws = [speaker._sampling(said("a", seed=seed)) for seed in (1, 1, 2)]
    logits = torch.randn(1, 40)
    drawn = [[int(draw(logits, logits[:, :0].long(), logits[:, :0].long())) for _ in range(8)] for draw in draws]
    assert drawn[0] == drawn[1] != drawn[2]
    run.generation["num_beams"] = 4
    with pytest.raises(Refusal, match=r"num_beams=4.*; give a temperature, such as 0"):
        speaker._sampling(said("a"))
    assert speaker._sampling(said("a", temperature=0.0)) is greedy


class Heard:
    """The events of a job as the model's own thread tells them, where something may be done at the first."""

    def __init__(self, log, name, first=lambda: None):
        self.log, self.name, self.first, self.events = log, name, first, SimpleQueue()

    def put(self, event):
        self.log.append(self.name if isinstance(event, str) else f"{self.name} ended")
        if self.log.count(self.name) == 1 and isinstance(event, str):
            self.first()
        self.events.put(event)

    def get(self, timeout):
        return self.events.get(timeout=timeout)

    def empty(self):
        return self.events.empty()


def alone(speaker, wish):
    return answered(speaker, wish)[0]


LONG = replace(WISHES[0], most=30, stream=True)


@pytest.fixture
def steps(monkeypatch):
    """How many rows go on together at each step."""
    counts, go_on = [], _serve_table.go_on

    def counted(model, rows, chosen):
        counts.append(len(chosen))
        return go_on(model, rows, chosen)

    monkeypatch.setattr(_serve_table, "go_on", counted)
    return counts


def test_who_comes_late_joins_and_ends_before_who_came_first(speaker, steps):
    log, jobs = [], []
    late = [replace(WISHES[1], budget=3, most=2), replace(WISHES[2], most=1), replace(WISHES[3], budget=5, most=3)]

    def come():
        jobs.extend(desk.ask(wish, Heard(log, f"late {number}")) for number, wish in enumerate(late))

    expected = [alone(speaker, wish) for wish in (LONG, *late)]
    steps.clear()
    with closing(Desk(speaker, together=4)) as desk:
        long = Heard(log, "long", come)
        desk.ask(LONG, long)
        assert [told(long), *map(told, jobs)] == expected
    assert log.index("long") < min(log.index(f"late {n} ended") for n in range(3))
    assert max(log.index(f"late {n} ended") for n in range(3)) < log.index("long ended")
    assert max(steps) > 1


def test_rows_of_several_budgets_and_strategies_go_on_together(speaker, steps):
    ways = [(None, "foveal"), (3, "foveal"), (5, "average_pool"), (4, "downsample")]
    asked = said(QUESTION, images=[picture(3)], most=30)
    wishes = [replace(asked, budget=budget, strategy=strategy) for budget, strategy in ways]
    expected = [alone(speaker, wish) for wish in wishes]
    steps.clear()
    assert answered(speaker, *wishes) == expected
    assert max(steps) == 4 and [ended.answer.visual_tokens for _, ended in expected] == [16, 3, 5, 4]


def test_who_hangs_up_frees_a_place_for_who_waits(speaker):
    log, here = [], replace(WISHES[1], most=30)
    with closing(Desk(speaker, together=2)) as desk:
        with desk._changed:
            job = desk.ask(LONG, Heard(log, "gone", lambda: job.gone.set()))
            stays = desk.ask(here, Heard(log, "stays"))
            waits = desk.ask(WISHES[2], Heard(log, "waits"))
        assert told(waits.events) == alone(speaker, WISHES[2])
        assert told(stays.events) == alone(speaker, here)
    assert log.count("gone") == 1 and "gone ended" not in log and log.index("waits ended") < log.index("stays ended")


def test_who_fails_on_the_way_hurts_nobody(speaker, monkeypatch):
    expected, own = [alone(speaker, wish) for wish in (LONG, WISHES[1])], speaker._sampling

    def failing(wish):
        def choose(scores, prompt, new):
            if new.shape[1] == 2:
                raise ZeroDivisionError("division")
            return greedy(scores, prompt, new)

        return choose if wish.seed == 13 else own(wish)

    monkeypatch.setattr(speaker, "_sampling", failing)
    long, failed, other = answered(speaker, LONG, replace(WISHES[2], seed=13), WISHES[1])
    assert [long, other] == expected and isinstance(failed[1], ZeroDivisionError)


def test_who_fails_to_join_hurts_nobody(speaker, monkeypatch):
    expected = alone(speaker, LONG)
    monkeypatch.setattr(_serve_table, "join", lambda parts, room: {}["no memory"])
    with closing(Desk(speaker, together=2)) as desk:
        late = Job(WISHES[2])
        long = Heard([], "long", lambda: (desk.ask(WISHES[2], late.events), None)[1])
        desk.ask(LONG, long)
        assert told(long) == expected and isinstance(told(late)[1], KeyError)


def test_what_fails_for_all_is_told_to_all_and_the_next_is_answered(speaker, monkeypatch):
    expected, go_on, broken = alone(speaker, WISHES[2]), _serve_table.go_on, [True]
    monkeypatch.setattr(_serve_table, "go_on", lambda *given: 1 // 0 if broken.pop() else go_on(*given))
    with closing(Desk(speaker, together=2)) as desk:
        with desk._changed:
            jobs = [desk.ask(wish) for wish in (LONG, WISHES[1])]
        assert [type(told(job)[1]) for job in jobs] == [ZeroDivisionError] * 2
        monkeypatch.setattr(_serve_table, "go_on", go_on)
        assert told(desk.ask(WISHES[2])) == expected


def test_who_is_first_in_line_comes_first_and_takes_along_those_right_behind_it(speaker, monkeypatch):
    taken, read = [], speaker.read
    monkeypatch.setattr(speaker, "read", lambda jobs: (taken.append([job.wish for job in jobs]), read(jobs))[1])
    wishes = [WISHES[0], WISHES[3], replace(WISHES[1], budget=3), WISHES[2], WISHES[0], WISHES[2]]
    with closing(Desk(speaker, together=4)) as desk:
        with desk._changed:
            jobs = [desk.ask(wish) for wish in wishes]
        found = [told(job) for job in jobs]
    assert taken[:3] == [wishes[:2], wishes[2:3], wishes[3:4]] and [one for some in taken for one in some] == wishes
    assert found == [alone(speaker, wish) for wish in wishes]


def test_a_cache_of_another_kind_is_not_joined(monkeypatch):
    class Other:
        def __init__(self, held):
            self.held = held

        def __getattr__(self, name):
            return getattr(self.__dict__["held"], name)

    run = tiny_run(WORDS, context=120, seed=5)
    own, wishes = run.model.language.cache, (WISHES[0], WISHES[2])
    expected = [alone(Speaker(run, longest=40), wish) for wish in wishes]
    monkeypatch.setattr(run.model.language, "cache", lambda *sizes: Other(own(*sizes)))
    speaker = Speaker(run, longest=40)
    assert not speaker.joins and _serve_table.Table(speaker, 4).places == 1
    assert answered(speaker, *wishes) == expected


def test_the_line_has_an_end_and_closing_tells_who_waits(speaker, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(speaker, "read", lambda jobs: (asked.set(), go_on.wait(30), None)[-1])
    desk = Desk(speaker, line=1)
    with desk.place() as one, desk.place() as two, desk.place() as three:
        assert (one, two, three) == (True, True, False)
    with desk.place() as free:
        assert free
    jobs = [desk.ask(WISHES[0])]
    assert asked.wait(30)
    jobs.append(desk.ask(WISHES[0]))
    go_on.set()
    desk.close()
    jobs.append(desk.ask(WISHES[0]))
    for job in jobs:
        error = job.events.get(timeout=5)
        assert isinstance(error, Refusal) and error.status == 503
    with desk.place() as free:
        assert not free
