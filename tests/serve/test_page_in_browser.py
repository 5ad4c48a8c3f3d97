"""The page as a person sees and uses it, in a real browser without a window."""

import re
import shutil
import time
from contextlib import contextmanager

import pytest

from serve.protocol import Unavailable
from tests.fixtures.page_server import SlowStudent, answer_reader, page_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reader():
    with answer_reader() as reader:
        yield reader


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as browser:
        yield browser


class Page:
    """The page in a browser, as a person uses it."""

    def __init__(self, browser, url):
        self.browser = browser
        self.browser.get_log("browser")
        self.resize(1280, 900)
        browser.get(url)

    def resize(self, width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def texts(self, selector):
        return self.script("return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)", selector)

    def script(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def wait(self, is_so, seconds=30):
        """Until something is so; what it then is."""
        deadline = time.monotonic() + seconds
        while not (found := is_so()):
            assert time.monotonic() < deadline, self.find("body").text
            time.sleep(0.05)
        return found

    def ready(self):
        self.wait(lambda: self.find("#model").get_attribute("value"))
        return self

    def ask(self, question):
        from selenium.webdriver.common.keys import Keys

        self.find("#question").clear()
        self.find("#question").send_keys(question, Keys.CONTROL + Keys.ENTER)

    @property
    def alert(self):
        return self.find("#alert").text

    def states(self):
        return self.script("return [...document.querySelectorAll('.sample')].map(each => each.dataset.state)")

    def widths(self):
        return self.script("return [...document.querySelectorAll('.fill')].map(each => each.style.width)")

    def facts(self):
        return dict(zip(self.texts("#facts dt"), self.texts("#facts dd"), strict=True))

    def complaints(self):
        """What the browser's console says, except of replies with an error status."""
        entries = [entry["message"] for entry in self.browser.get_log("browser")]
        return [entry for entry in entries if "the server responded with a status" not in entry]


@contextmanager
def opened(browser, reader, student, **settings):
    with page_server(student, reader, **settings) as url:
        page = Page(browser, url)
        yield page
        assert page.complaints() == []


def test_a_question_is_answered(browser, reader):
    rationale = "Half of it: $\\frac{{1}}{{2}}$ <b>bold</b> costs $5 and $6.\n\nSo \\boxed{{{answer}}}."
    student = SlowStudent(("42", "41", "42", "42"), 0.6, rationale=rationale)
    with opened(browser, reader, student) as page:
        page.ready().ask("What is 6 × 7?")
        page.wait(lambda: "running" in page.states() and "counted" in page.states())
        assert page.find("#verdict").text == "leads"
        assert not page.find("#ask").is_enabled()
        page.wait(lambda: page.find("#verdict").text == "won")
        assert page.find("#answer").text == "42"
        votes = page.texts(".vote-head .answer")
        assert votes[0] == "42"
        facts = page.facts()
        states = page.states()
        # The report counts what the cells show: 16 samples would have been drawn without the rule.
        assert facts["Samples used"] == str(states.count("counted"))
        assert facts["Cancelled"] == str(states.count("cancelled"))
        assert states.count("counted") < 16
        assert int(facts["Tokens"]) >= 40 * states.count("counted")
        assert facts["Tokens saved"].startswith("≈ ")
        assert page.find("#reason").text.startswith(f"Decided after {facts['Samples used']} samples")
        page.wait(lambda: page.script("return document.querySelectorAll('#rationale math').length") == 2)
        assert page.script("return document.querySelector('#rationale mfrac') instanceof MathMLElement")
        assert "<b>bold</b> costs $5 and $6." in page.find("#rationale").text
        assert page.script("return getComputedStyle(document.querySelector('menclose')).borderTopStyle") == "solid"
        shares = [text.split(" · ")[1].replace(" ", "") for text in page.texts(".vote-numbers")]
        page.wait(lambda: page.widths() == shares)
        assert page.find("#announcer").get_attribute("textContent").startswith("The answer is 42. Decided")
        assert page.find("#ask").is_enabled()
        assert not page.find("#stop").is_enabled()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_cancels_the_samples(browser, reader, how):
    from selenium.webdriver.common.keys import Keys

    student = SlowStudent(("1",), 60)
    with opened(browser, reader, student, parallel=3) as page:
        page.ready().ask("How long?")
        page.wait(lambda: page.states() == ["running"] * 3)
        if how == "button":
            page.find("#stop").click()
        else:
            page.find("#question").send_keys(Keys.ESCAPE)
        page.wait(lambda: page.find("#reason").text == "Stopped. The samples that ran are cancelled.")
        assert page.states() == ["cancelled"] * 3
        page.wait(lambda: student.num_cancelled == 3)
        assert page.alert == ""
        page.wait(lambda: page.find("#ask").is_enabled())


def test_the_student_is_down(browser, reader):
    student = SlowStudent(error=Unavailable("the student sluice does not answer"))
    with opened(browser, reader, student) as page:
        page.resize(360, 740)
        page.ready().ask("Anybody there?")
        page.wait(lambda: page.alert)
        assert page.alert == (
            "The student does not answer. Try again in 2 seconds. (the student sluice does not answer)"
        )
        assert page.find("#alert").get_attribute("role") == "alert"
        top = page.script("return document.getElementById('alert').getBoundingClientRect().top")
        assert 0 <= top < 740  # seen without scrolling
        student.error = None
        page.ask("And now?")
        page.wait(lambda: page.find("#verdict").text == "won")
        assert page.alert == ""


def test_the_student_goes_down_in_the_middle(browser, reader):
    student = SlowStudent(error=Unavailable("it is gone"), error_seconds=1.2)
    with opened(browser, reader, student) as page:
        page.ready().ask("Anybody there?")
        page.wait(lambda: page.states())
        page.wait(lambda: page.alert == "The vote ended early: it is gone.")
        assert set(page.states()) == {"cancelled"}
        assert page.find("#reason").text == "The vote was not decided."


def test_a_defect_of_the_server_ends_the_vote(browser, reader):
    student = SlowStudent(error=OSError("a defect of the server"), error_seconds=1.2)
    with opened(browser, reader, student) as page:
        page.ready().ask("Anybody there?")
        page.wait(lambda: page.states())
        page.wait(lambda: page.alert == "The vote ended early: internal error in the middle of the answer.")
        assert set(page.states()) == {"cancelled"}


def test_the_connection_breaks_in_the_middle(browser, reader):
    with page_server(SlowStudent(seconds=60), reader) as url:
        page = Page(browser, url).ready()
        page.ask("Anybody there?")
        page.wait(lambda: page.states())
    page.wait(lambda: page.alert == "The connection broke before the vote was decided. Ask again.")


def test_the_server_is_gone(browser, reader):
    with page_server(SlowStudent(), reader) as url:
        page = Page(browser, url).ready()
    page.ask("Anybody there?")
    page.wait(lambda: page.alert == "The server cannot be reached. Check that it runs, then ask again.")


def test_all_places_are_taken(browser, reader):
    with opened(browser, reader, SlowStudent(), places=0) as page:
        page.ready().ask("Me too?")
        page.wait(lambda: page.alert == "The server is busy. Try again in 1 second.")


def test_an_api_key_is_asked_for_and_kept_for_the_session(browser, reader):
    with opened(browser, reader, SlowStudent(), keys=["secret"]) as page:
        page.wait(lambda: page.alert == "This server wants an API key that it knows.")
        key = page.find("#key")
        assert page.script("return document.activeElement.id") == "key"
        key.send_keys("wrong")
        page.find("#use-key").click()
        page.wait(
            lambda: (
                page.script("return performance.getEntriesByName(new URL('v1/models', location), 'resource').length")
                == 2
            )
        )
        page.wait(lambda: page.alert)
        key.clear()
        key.send_keys("secret\n")
        page.ready()
        assert page.alert == ""
        page.ask("What is 6 × 7?")
        page.wait(lambda: page.find("#verdict").text == "won")
        page.wait(lambda: page.texts("#rationale math"))
        assert page.script("return [localStorage.length, document.cookie, Object.values(sessionStorage)]") == [
            0, "", ["secret"],
        ]  # fmt: skip
        page.script("sessionStorage.clear()")


def test_fields_reach_the_server(browser, reader):
    student = SlowStudent(rationale='{{"result": {{"value": {answer}}}}}', seconds=0.1)
    with opened(browser, reader, student) as page:
        page.ready()
        assert not page.find("#field").is_displayed()
        page.find("#kind option[value=json]").click()
        page.find("#field").send_keys("result.value")
        page.find("#max-samples").send_keys("2")
        page.find("#confidence").send_keys("0.999")
        page.ask("Give JSON.")
        page.wait(lambda: page.find("#verdict").text == "won")
        assert page.find("#answer").text == "42"
        assert page.find("#reason").text == "All 2 samples were drawn."
        assert student.prompts == [(("user", "Give JSON."),)] * 2
        page.find("#max-samples").send_keys("000")
        page.ask("Too many?")
        assert page.script("return document.getElementById('max-samples').validity.rangeOverflow")


def test_no_sample_states_an_answer(browser, reader):
    with opened(browser, reader, SlowStudent(rationale="Who knows?", seconds=0.1), max_samples=2) as page:
        page.ready().ask("Why?")
        page.wait(lambda: page.find("#answer").text == "No answer")
        assert page.find("#reason").text == "No sample states an answer. Below is the best of them."
        assert page.find("#no-votes").text == "No sample states an answer."
        assert page.find("#rationale").text == "Who knows?"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_screen_and_can_be_read(browser, reader, width, scheme):
    wide = SlowStudent(("\\frac{1}{2}", "9" * 90), 0.1, rationale="$" + "x+" * 90 + "x$ \\boxed{{{answer}}}")
    with opened(browser, reader, wide, max_samples=6) as page:
        page.resize(width, 740)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        page.ready().ask("Wide?")
        page.wait(lambda: page.find("#verdict").text == "won" and page.texts("#rationale math"))
        assert page.script("return document.documentElement.scrollWidth") <= width
        assert _contrast(page, "body") >= 7
        assert _contrast(page, ".hint", ".ask") >= 4.5
        assert _contrast(page, "#ask") >= 4.5
        assert _contrast(page, ".sample[data-state=counted] .more", ".ask") >= 4.5


def test_every_control_has_a_name_and_the_keyboard_reaches_it(browser, reader):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, reader, SlowStudent()) as page:
        page.ready()
        for control in browser.find_elements("css selector", "input, select, textarea, button, a"):
            if control.is_displayed():
                assert control.accessible_name
        page.script("document.activeElement.blur()")
        reached = []
        for _ in range(9):
            browser.switch_to.active_element.send_keys(Keys.TAB)
            reached.append(
                page.script("return document.activeElement.id || document.activeElement.textContent.slice(0, 6)")
            )
        assert reached == ["API", "question", "A shop", "What i", "model", "max-samples", "confidence", "kind", "ask"]
        assert page.script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.texts("h1, h2")[:3] == ["Sluice", "Question", "Answer"]


def test_the_api_is_described(browser, reader):
    with opened(browser, reader, SlowStudent()) as page:
        page.find("nav a").click()
        page.wait(lambda: page.texts(".operation h3"))
        headings = [text.replace("\n", " ") for text in page.texts(".operation h3")]
        assert headings == [
            "POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models", "GET /v1/models/{name}",
            "GET /healthz", "GET /metrics", "POST /page/render",
        ]  # fmt: skip
        assert "max_samples" in page.texts(".operation th code")
        page.resize(360, 740)
        assert page.script("return document.documentElement.scrollWidth") <= 360


def _contrast(page, selector, ground=None):
    """The ratio of WCAG 2 between an element's text and a ground's background, its own by default."""
    script = "const s = getComputedStyle(document.querySelector(arguments[0])); return s[arguments[1]]"
    colours = [page.script(script, selector, "color"), page.script(script, ground or selector, "backgroundColor")]
    one, other = sorted(_luminance(colour) for colour in colours)
    return (other + 0.05) / (one + 0.05)


def _luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
