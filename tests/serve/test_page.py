"""The page without a browser: its formulas, its paths, and its files."""

import asyncio
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from starlette.testclient import TestClient

from algorithms.answers.kinds import KINDS
from serve import reading
from serve.api.routes import create_api
from serve.page import mathml, routes
from serve.page.mathml import to_html
from tests.fixtures.page_server import SlowStudent, answer_reader, page_service

FOLDER = Path(routes.__file__).parent
X = "<mi>x</mi>"


def inline(content):
    return f'<math display="inline"><mrow>{content}</mrow></math>'


def block(content):
    return f'<math display="block"><mrow>{content}</mrow></math>'


def boxed(content):
    return f'<menclose notation="box"><mrow>{content}</mrow></menclose>'


# Formulas


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("a < b & \"c\" <script>f('x')", "a &lt; b &amp; &quot;c&quot; &lt;script&gt;f(&#x27;x&#x27;)"),
        ("one\ntwo\r\nthree\n \nfour", "one<br>two<br>three</p><p>four"),
        ("a $x$ b", f"a {inline(X)} b"),
        (r"a \(x\) b", f"a {inline(X)} b"),
        ("a\n$$x$$\nb", f"a{block(X)}b"),
        ("a\n\\[\nx\n\\]\nb", f"a{block(X)}b"),
        ("so \\boxed{x}.", f"so {inline(boxed(X))}."),
        ("$\\boxed {x}$", inline(boxed(X))),
        ("\\boxed{x_{\\{}}", inline(boxed("<msub><mi>x</mi><mrow><mo stretchy=\"false\">{</mo></mrow></msub>"))),
        ("\\boxed{\\$18}", inline(boxed("<mi>$</mi><mn>18</mn>"))),
    ],
)  # fmt: skip
def test_a_text_and_its_formulas(text, html):
    assert to_html(text) == (f"<p>{html}</p>" if html else "")


@pytest.mark.parametrize(
    "text",
    [
        "$5 and $6",
        "It costs $5, not $6.",
        "($5)-($6)",
        "from $10-$20 to $30/$40",
        "He pays 3*5=$<<3*5=15>>15 or $20*2=$<<20*2=40>>40.",
        "$5 per pound, so 4 pounds cost 20$ then",
        "$5\n\nand 6$",
        "a $ b $ c",
        "$",
        "$$",
        "$$$$",
        "$x",
        "$$x",
        "\\(x",
        "\\[x",
        "\\boxed{x",
        "\\boxed x",
        "\\begin{align}x",
        "\\begin{document}x\\end{document}",
    ],
)
def test_what_is_no_formula_stays_text(text):
    html = to_html(text)
    assert "<math" not in html
    assert re.sub("<br>|</p><p>|</?p>", "", html) == mathml.escape(text).replace("\n", "")


def test_money_beside_a_formula():
    assert to_html(r"With $5 left, $x$ is \$3.") == f"<p>With $5 left, {inline(X)} is $3.</p>"


def test_an_environment_is_a_formula():
    html = to_html("\\begin{align*}x&=1\\\\&=2\\end{align*}")
    assert html.startswith('<p><math display="block">')
    assert html.count("<mtr>") == 2


@pytest.mark.parametrize(
    "source",
    ["$\\frac{$", "$\\sqrt$", "$x_$", "\\boxed{x^a^b}", f"$x{'+x' * 2500}$", f"${'{' * 1900}{'}' * 1900}$"],
)
def test_a_formula_that_cannot_be_converted_shows_its_source(source):
    assert to_html(source) == f"<p><code>{source}</code></p>"


def test_macros_are_not_expanded():
    bomb = "$\\def\\a{xx}" + "".join(f"\\newcommand{{\\{b}}}{{\\{a}\\{a}}}" for a, b in ["ab", "bc", "cd"]) + "\\d$"
    assert to_html(bomb) == f"<p><code>{bomb}</code></p>"


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<img src=x onerror=alert(1)>}",
        r"\text{&lt;script&gt;}",
        r"\mbox{</math><script>alert(1)</script>}",
        r"\unicode{x3c}script\unicode{x3e}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{position:fixed}{x}\class{alert}{x}",
        r"\color{red;}{x}\textcolor{\"onclick=\"alert(1)}{x}",
        r"\operatorname{<b onclick=1>}",
        r"\tag{<b>}",
        "<script>",
        "\\hspace{1em\" onclick=\"alert(1)}x",
    ],
)  # fmt: skip
def test_a_hostile_formula_makes_no_element_and_no_attribute_of_its_own(latex):
    html = to_html(f"$${latex}$$")
    root = ElementTree.fromstring(html)
    for element in root.iter():
        assert element.tag in mathml.ELEMENTS | {"p", "code"}
        assert set(element.attrib) <= mathml.ATTRIBUTES
        assert not any(set(value) & set("<>;:()\"'") for value in element.attrib.values())


def test_characters_that_no_page_can_hold():
    assert to_html("a\x00b\ud800c") == "<p>a\ufffdb\ufffdc</p>"


@pytest.mark.parametrize("mark", ["$", "$$", "\\[", "\\(", "\\boxed{", "\\begin{align}", "{", "\\", "$a$", "\n\n"])
def test_time_does_not_grow_with_the_square_of_the_text(mark):
    began = time.process_time()
    to_html(mark * (20_000 // len(mark)))
    assert time.process_time() - began < 10  # 3 million searches would need longer


# Paths


@pytest.fixture(scope="module")
def reader():
    with answer_reader() as reader:
        yield reader


@pytest.fixture
def client(reader):
    with TestClient(create_api(page_service(SlowStudent(), reader, max_samples=12, confidence=0.9))) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html; charset=utf-8"), ("/docs", "text/html; charset=utf-8")]
    + [(f"/page/{name}", kind) for name, kind in routes.FILES.items()],
)
def test_files_have_their_type_and_safe_headers(client, path, kind):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == kind.split(";")[0]
    assert response.headers["cache-control"] == "no-cache"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "routes.py", "..%2froutes.py", "%2e%2e/routes.py", "x", "page.js/"])
def test_other_files_are_not_handed_out(client, name):
    response = client.get(f"/page/{name}", follow_redirects=False)
    assert response.status_code in (404, 307)  # 307: without the slash
    assert b"FastAPI" not in response.content


def test_every_file_of_the_folder_is_handed_out_and_nothing_is_inline_or_from_elsewhere(client):
    pages = {"index.html", "docs.html"}
    assert set(routes.FILES) | pages == {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    for name in pages:
        html = (FOLDER / name).read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
        links = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert not [link for link in links if ":" in link or link.startswith("/")]  # relative: any prefix will do
        assert {link.removeprefix("page/") for link in links if link.startswith("page/")} <= set(routes.FILES)


def test_the_page_names_the_servers_defaults_and_kinds(client):
    html = client.get("/").text
    assert 'max="64" step="1" placeholder="12"' in html
    assert 'placeholder="0.9"' in html
    assert re.findall(r'<option value="(\w+)">', html) == list(KINDS)


def test_rendering_a_text(client):
    response = client.post("/page/render", json={"text": "<b> $x$"})
    assert response.json() == {"html": f"<p>&lt;b&gt; {inline(X)}</p>"}


@pytest.mark.parametrize("body", [{"text": "x" * 20_001}, {"text": 1}, {}, {"text": "x", "more": 1}])
def test_a_body_that_cannot_be_rendered(client, body):
    response = client.post("/page/render", json=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_half_a_character_is_no_error_of_the_server(client):
    response = client.post(
        "/page/render", content=b'{"text": "\\ud800 $x$"}', headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (200, 400)


def test_rendering_wants_a_key_where_there_are_keys(reader):
    with TestClient(create_api(page_service(SlowStudent(), reader, keys=["secret"]))) as client:
        assert client.post("/page/render", json={"text": "x"}).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/page/render", json={"text": "x"}, headers=headers).json() == {"html": "<p>x</p>"}
        assert client.get("/").status_code == 200


def test_a_text_that_takes_too_long_is_shown_as_it_is(monkeypatch):
    monkeypatch.setattr(reading, "LIMIT_SECONDS", 0.0001)
    with answer_reader() as reader:
        assert asyncio.run(reader.render("<b> " + "$x^2$ " * 3000)) == "<p>&lt;b&gt; " + "$x^2$ " * 3000 + "</p>"
