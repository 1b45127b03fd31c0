"""The playground in a real browser on a real server, compared with the API's own answers."""

import json
import math
from urllib.parse import urlsplit

import httpx2
import pytest
import torch

from gptworks.model import checkpoint
from gptworks.text.bytelevel import BYTE_ORDER
from tests.serving.browsing import DESK, PHONE, Playground, chromium
from tests.serving.conftest import CONTEXT, network, serving

pytestmark = pytest.mark.e2e

LETTERS = range(32, 127)
SETTINGS = {"temperature": 0.8, "top_k": 50, "top_p": 1, "min_p": 0, "repetition_penalty": 1}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def up(chat_folder, instruct_folder, classifier_folder, byte_tokenizer, tmp_path_factory):
    """A server with a model of each kind; its base model generates one-byte characters only."""
    model, folder = network(byte_tokenizer.vocab_size), tmp_path_factory.mktemp("served") / "base"
    with torch.no_grad():
        model.transformer.wte.weight[[id for id, byte in enumerate(BYTE_ORDER) if byte not in LETTERS]] = 0
    checkpoint.save(model, folder, byte_tokenizer)
    with serving([folder, chat_folder, instruct_folder, classifier_folder]) as found:
        yield found


@pytest.fixture
def open_page(browser, up):
    """Opens the page. Afterwards: no console messages, no requests to other servers, nothing stored."""
    contexts, pages = [], []

    def make(fragment="", *, url=up.url, viewport=DESK, **options):
        context = browser.new_context(viewport=viewport, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        pages.append(Playground(context, url, fragment))
        return pages[-1]

    yield make
    for page in pages:
        assert page.complaints == []
        assert {urlsplit(request.url).netloc for request in page.asked} == {urlsplit(page.url).netloc}
        kept = page.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert json.loads(kept) == [{}, {}, ""]
    for context in contexts:
        context.close()


def asked_api(url, prompt, model="base", **settings):
    """The API's own answer: its text, and its tokens with log-probabilities and alternatives."""
    body = {"model": model, "prompt": prompt, "logprobs": 8, **SETTINGS, **settings}
    answer = httpx2.post(f"{url}/v1/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["text"], choice["logprobs"]


def shade(logprob):
    return sum(math.exp(logprob) < edge for edge in (0.5, 0.2, 0.05, 0.01, 0.001))


def test_a_completion_is_the_apis_and_each_token_has_the_colour_of_its_probability(open_page, up):
    page = open_page()
    page.set("seed", 7)
    page.set("max_tokens", 40)
    page.run("the cat")
    text, logprobs = asked_api(up.url, "the cat", seed=7, max_tokens=40)
    assert page.answer() == text
    spans = page.find(".tokens .t").evaluate_all("all => all.map(it => [it.textContent, it.className])")
    assert [text for text, _ in spans] == logprobs["tokens"]
    assert [name.split()[1] for _, name in spans] == [f"p{shade(one)}" for one in logprobs["token_logprobs"]]
    assert "40 tokens" in page.find(".facts").inner_text()
    assert "seed 7" in page.find(".facts").inner_text()


def test_alternatives_are_the_apis_and_pressing_one_goes_on_from_there(open_page, up):
    page = open_page()
    page.set("temperature", 0)
    page.set("max_tokens", 12)
    page.run("abc")
    text, logprobs = asked_api(up.url, "abc", temperature=0, max_tokens=12)
    third = page.find(".tokens .t").nth(2)
    third.hover()
    rows = page.find(".popover li .token").all_text_contents()
    top = sorted(logprobs["top_logprobs"][2].items(), key=lambda item: -item[1])
    assert len(rows) == len(top) == 8
    shares = page.find(".popover li .share").all_text_contents()
    assert shares[0].removesuffix("%") in {f"{100 * math.exp(top[0][1]):.{digits}f}" for digits in (0, 1)}
    other = next(i for i, (token, _) in enumerate(top) if token != logprobs["tokens"][2] and token.isalnum())
    page.find(".popover li").nth(other).locator("button").click()
    page.rest()
    begun = text[:2] + top[other][0]
    assert page.answer() == begun + asked_api(up.url, "abc" + begun, temperature=0, max_tokens=9)[0]
    assert "2 of 2" in page.find(".others").inner_text()
    page.find("button[aria-label='Previous answer']").click()
    assert page.answer() == text


def slowly(page):
    """Throttle the network to a few tokens per second."""
    session = page.page.context.new_cdp_session(page.page)
    limits = {"offline": False, "latency": 0, "downloadThroughput": 4000, "uploadThroughput": -1}
    session.send("Network.emulateNetworkConditions", limits)


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_keeps_what_has_come_and_frees_the_servers_slot(open_page, up, how):
    page = open_page()
    page.set("max_tokens", 240)
    slowly(page)
    page.find("#prompt").fill("once")
    page.find("#run").click()
    page.find(".tokens .t").nth(2).wait_for()
    assert page.find("#run").inner_text() == "Stop"
    page.find("#run").click() if how == "button" else page.page.keyboard.press("Escape")
    page.rest()
    assert 3 <= len(page.answer()) < 240
    assert "stopped" in page.find(".facts").inner_text()
    up.wait(lambda: up.app.state.models["base"].worker.scheduler.running == 0)


def test_regenerate_draws_another_answer_unless_the_seed_is_set(open_page):
    page = open_page()
    page.set("max_tokens", 24)
    page.run("x")
    first = page.answer()
    page.find("#again").click()
    page.rest()
    assert page.answer() != first
    page.find("button[aria-label='Previous answer']").click()
    assert page.answer() == first
    page.set("seed", 5)
    page.find("#again").click()
    page.rest()
    fixed = page.answer()
    page.find("#again").click()
    page.rest()
    assert page.answer() == fixed
    assert "4 of 4" in page.find(".others").inner_text()


def test_two_sides_answer_one_prompt_each_with_its_own_model_and_settings(open_page, up):
    page = open_page()
    page.set("max_tokens", 16)
    page.find("#compare").click()
    page.set("temperature", 0, "b")
    page.set("seed", 3, "a")
    page.find(".lane .head select").nth(1).select_option("chat")
    assert page.find(".lane").nth(1).locator(".differs label").all_text_contents() == ["Temperature", "Seed"]
    page.run("hello")
    assert page.answer(0) == asked_api(up.url, "hello", seed=3, max_tokens=16)[0]
    assert page.answer(1) == asked_api(up.url, "hello", "chat", temperature=0, max_tokens=16)[0]
    page.find("#compare").click()
    assert page.find(".lane").count() == 1


def test_settings_open_on_both_sides_and_leave_the_answers_beside_each_other(open_page):
    page = open_page()
    page.find("#compare").click()
    page.find(".toggle").first.click()
    assert page.find(".settings").filter(visible=True).count() == 2
    page.set("max_tokens", 4, "a")
    page.set("max_tokens", 4, "b")
    page.run("hello")
    tops = page.find(".tokens").evaluate_all("all => all.map(it => it.getBoundingClientRect().top)")
    assert len(tops) == 2
    assert abs(tops[0] - tops[1]) < 2


def test_on_a_phone_settings_fold_away_when_something_is_asked(open_page):
    page = open_page(viewport=PHONE, has_touch=True)
    page.set("max_tokens", 4)
    assert page.find(".settings").is_visible()
    page.run("hello")
    assert page.find(".settings").is_hidden()


def test_the_prompt_is_coloured_too_if_asked(open_page, up):
    page = open_page()
    page.set("max_tokens", 4)
    page.find("#echo").check()
    page.run("hello")
    body = page.bodies("/v1/completions")[-1]
    assert body["echo"] is True
    given = page.find(".tokens .t.given")
    assert "".join(given.all_text_contents()) == "hello"
    logprobs = asked_api(up.url, "hello", max_tokens=1, echo=True)[1]["token_logprobs"][1:5]
    classes = given.evaluate_all("all => all.map(it => it.className.split(' ')[1])")
    assert classes[1:] == [f"p{shade(one)}" for one in logprobs]


def test_a_conversation_goes_on_and_can_be_cleared(open_page):
    page = open_page()
    page.mode("chat")
    page.set("max_tokens", 12)
    page.find("#system").fill("Be brief.")
    page.find("#prompt").fill("who")
    page.find("#prompt").press("Enter")
    page.rest()
    first = page.answer()
    assert page.find("#prompt").input_value() == ""
    page.run("and then?")
    assert page.find(".asked").all_text_contents() == ["who", "and then?"]
    assert page.bodies("/v1/chat/completions")[-1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "who"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and then?"},
    ]
    page.run("tell me more")
    page.run("and more")
    page.page.wait_for_function("innerHeight + scrollY > document.documentElement.scrollHeight - 90")
    page.find("#clear").click()
    assert page.find(".turn").count() == 0


def test_an_instruction_and_its_input_are_sent_as_such(open_page):
    page = open_page()
    page.mode("instruct")
    page.set("max_tokens", 6)
    page.find("#second").fill("der Hund")
    page.run("Translate.")
    messages = page.bodies("/v1/chat/completions")[-1]["messages"]
    assert messages == [{"role": "user", "content": "Translate.", "input": "der Hund"}]
    assert page.answer()


@pytest.mark.parametrize("method", ["leave_one_out", "gradient_x_input"])
def test_a_text_is_classified_and_tokens_that_mattered_are_shown(open_page, up, method):
    page = open_page()
    page.mode("classify")
    page.set("attribution", method)
    page.run("win now")
    body = {"model": "spam", "input": "win now", "attribution": method}
    told = httpx2.post(f"{up.url}/v1/classify", json=body).json()["data"][0]
    assert page.find(".prediction b").inner_text() == told["label"]
    names = page.find(".classes .name").all_text_contents()
    assert names == sorted(told["probabilities"], key=told["probabilities"].get, reverse=True)
    assert "".join(page.find(".tokens .t").all_text_contents()) == "win now"
    values = [token["attribution"] for token in told["tokens"]]
    classes = page.find(".tokens .t").evaluate_all("all => all.map(it => it.className)")
    strongest = max(range(len(values)), key=lambda i: abs(values[i]))
    assert ("for4" if values[strongest] > 0 else "against4") in classes[strongest]
    page.find(".tokens .t").nth(strongest).hover()
    assert f"{abs(values[strongest]):.3f}" in page.find(".popover").inner_text()
    page.find(f".classes button[aria-pressed=false]:has-text('{names[1]}')").click()
    page.find(f".tokens-title:has-text('{names[1]}')").wait_for()
    other = page.find(".tokens .t").evaluate_all("all => all.map(it => it.className)")
    assert ("against4" if values[strongest] > 0 else "for4") in other[
        strongest
    ]  # two classes: what one gains


def test_a_link_holds_the_whole_page_and_only_the_fragment_does(open_page):
    page = open_page()
    page.find("#compare").click()
    page.set("temperature", 1.3, "b")
    page.set("stop", "\\n", "a")
    page.find("#colour").uncheck()
    page.find("#prompt").fill("a & b = ü\n#?")
    page.find("#link").click()
    link = page.page.evaluate("navigator.clipboard.readText()")
    assert link == page.page.url
    assert urlsplit(link).query == ""
    again = open_page("#" + urlsplit(link).fragment)
    assert again.find("#prompt").input_value() == "a & b = ü\n#?"
    assert again.find(".lane").count() == 2
    assert again.find("#setting-b-temperature").input_value() == "1.3"
    assert again.find("#setting-a-stop").input_value() == "\\n"
    assert not again.find("#colour").is_checked()
    again.find("#link").click()
    assert again.page.url == link


def test_a_link_gives_a_conversation_back_and_the_same_answer(open_page):
    page = open_page()
    page.mode("chat")
    page.set("max_tokens", 8)
    page.run("hi")
    said = page.answer()
    page.find("#link").click()
    again = open_page("#" + urlsplit(page.page.url).fragment)
    assert again.find(".asked").all_text_contents() == ["hi"]
    assert again.answer() == said
    again.find("#again").click()
    again.rest()
    assert again.answer() == said


@pytest.mark.parametrize(
    "fragment",
    ["#mode=chat&a.model=no-such", "#mode=nonsense", "#%%%", "#mode=complete&a.temperature=hot&a.model=base"],
)
def test_a_link_that_does_not_fit_still_opens_the_page(open_page, fragment):
    page = open_page(fragment)
    page.set("max_tokens", 2)
    if "no-such" in fragment:
        assert "no-such" in page.find("#trouble").inner_text()
    page.run("hi")
    assert page.answer()


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_nothing_is_wider_than_the_window(open_page, viewport):
    page = open_page(viewport=viewport, has_touch=viewport is PHONE)
    page.set("max_tokens", 12)
    for mode in ("complete", "instruct", "chat", "classify"):
        page.mode(mode)
        page.run("a-very-long-word-without-any-place-to-break-it-" * 2)
        if mode == "complete":
            page.find(".tokens .t").nth(5).tap() if viewport is PHONE else page.find(".tokens .t").nth(
                5
            ).hover()
            page.find(".popover li").first.wait_for()
            page.page.keyboard.press("Escape")
        page.find("#compare").click()
        if (toggle := page.find(".toggle").filter(visible=True)).count():
            toggle.first.click()  # opens both sides
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), mode
        page.find("#compare").click()


def test_everything_can_be_done_with_the_keyboard(open_page, up):
    page = open_page()
    keys = page.page.keyboard

    def focused():
        return page.page.evaluate("document.activeElement.id")

    keys.press("Tab")
    assert page.page.evaluate("document.activeElement.className") == "skip"
    keys.press("Enter")
    assert focused() == "prompt"
    keys.type("the")
    keys.press("Tab")
    assert focused() == "run"
    page.set("max_tokens", 12)
    page.set("temperature", 0)
    page.find("#prompt").focus()
    keys.press("Control+Enter")
    page.rest()
    before = page.answer()
    page.find(".tokens").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        keys.press(key)
    page.find(".tokens .t.at").wait_for()
    assert page.find(".tokens .t").nth(0).get_attribute("class").endswith(" at")
    assert "%" in page.find("#announcer").inner_text()  # for screen readers
    keys.press("Enter")
    assert page.page.evaluate("document.activeElement.tagName") == "BUTTON"
    keys.press("Enter")
    page.rest()
    assert page.answer() != before
    keys.press("Alt+c")
    assert page.find(".lane").count() == 2
    keys.press("Alt+p")
    assert not page.find("#colour").is_checked()
    keys.press("Alt+r")
    page.rest()
    keys.press("Alt+k")
    assert page.find("#keys").is_visible()
    keys.press("Escape")
    assert not page.find("#keys").is_visible()


def test_a_tap_shows_alternatives(open_page):
    page = open_page(viewport=PHONE, has_touch=True)
    page.set("max_tokens", 8)
    page.run("go")
    page.find(".tokens .t").nth(3).tap()
    page.find(".popover li").nth(7).wait_for()
    page.find("h1").tap()
    page.find(".popover").wait_for(state="hidden")


def test_the_servers_refusal_is_one_line_that_says_what_to_do(open_page):
    page = open_page()
    page.run("x" * (CONTEXT + 40))
    words = page.find(".facts .trouble").inner_text()
    assert str(CONTEXT) in words  # the model's context
    assert page.find(".tokens").count() == 0  # the prompt does not hide the message
    assert "\n" not in words
    page.run("short")
    assert page.find(".facts .trouble").count() == 0


def test_a_server_that_is_gone_is_said(open_page, base_folder):
    with serving([base_folder]) as there:
        page = open_page(url=there.url)
    page.run("hello")
    assert "gptworks serve" in page.find(".facts .trouble").inner_text()


def test_a_server_with_a_key_is_asked_for_it(open_page, base_folder):
    with serving([base_folder], key="sesame") as there:
        page = open_page(url=there.url)
        assert page.find("#ask").is_hidden()
        page.find("#key").fill("wrong")
        page.find("#key").press("Enter")
        assert page.find("#ask").is_hidden()
        page.find("#key").fill("sesame")
        page.find("#key").press("Enter")
        page.set("max_tokens", 3)
        page.run("hi")
        assert page.answer()


def test_markup_in_a_prompt_is_text(open_page):
    page = open_page()
    page.set("max_tokens", 2)
    page.run("<img src=x onerror=alert(1)>")
    assert page.find(".tokens .given").inner_text() == "<img src=x onerror=alert(1)>"
    assert page.find(".tokens img").count() == 0
