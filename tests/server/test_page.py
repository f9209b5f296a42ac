"""test_page: the chat page and the dashboard in Chromium, used as a person would: typing, sending,
stopping, regenerating, copying, with a key, light and dark, on a phone; nothing that a model or a
file says becomes markup, and nothing is complained of in the console."""
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import SLOW, Server  # noqa: E402

try:
    from playwright.sync_api import sync_playwright, expect
except ImportError:
    sync_playwright = None

CHROMIUM = shutil.which("chromium")
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
# Where to leave pictures of the pages, for whoever wants to look at them.
PICTURES = os.environ.get("SLUICE_PICTURES")
MARKDOWN = f"""# A title {EVIL}

Some *slanted*, **bold** and `code <b>`, a [good link](https://example.com/a?b=1&c="d") and
a [bad one](javascript:alert(1)).

- one {EVIL}
  - nested
- two

1. first
2. second

> quoted

| a | b |
|---|---|
| 1 | {EVIL} |

```html
{EVIL}
```
"""


def sse(text, pieces=40):
    """An event stream that brings the text in so many pieces."""
    size = max(1, len(text) // pieces)
    events = [{"choices": [{"index": 0, "delta": {"content": text[i:i + size]}}]}
              for i in range(0, len(text), size)]
    events.append({"choices": [], "usage": {"completion_tokens": len(events)}})
    return "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"


@unittest.skipUnless(sync_playwright and CHROMIUM, "needs playwright and Chromium")
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        expect.set_options(timeout=120000)
        cls.play = sync_playwright().start()
        cls.browser = cls.play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"],
                                               timeout=120000)
        cls.server = Server("--max-seqs", "4")

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.play.stop()
        assert cls.server.stop() == 0

    def open(self, path="/", server=None, size=(1280, 800), dark=False, complaints=None):
        """A page in a fresh browser; complaints: those of the console that are meant to be."""
        context = self.browser.new_context(viewport={"width": size[0], "height": size[1]},
                                           color_scheme="dark" if dark else "light",
                                           permissions=["clipboard-read", "clipboard-write"])
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(120000)
        errors = []
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" and not (
            complaints and re.search(complaints, m.text)) else None)
        page.on("dialog", lambda d: errors.append("dialog " + d.message))
        self.addCleanup(lambda: self.assertEqual([], errors))
        page.goto(f"http://127.0.0.1:{(server or self.server).port}{path}")
        return page

    def picture(self, page, name):
        if PICTURES:
            page.screenshot(path=os.path.join(PICTURES, name + ".png"), full_page=True)

    def until(self, page, condition):
        """Waits for a condition in JavaScript. (The page's own policy forbids Playwright's way.)"""
        end = time.monotonic() + 120
        while not page.evaluate(condition):
            self.assertLess(time.monotonic(), end, condition)
            page.wait_for_timeout(30)

    def unharmed(self, page):
        self.assertIsNone(page.evaluate("window.hacked ?? null"))
        self.assertEqual(page.locator("img, main script").count(), 0)

    def fits(self, page):
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        self.assertFalse(wide, "the page is wider than the screen")

    def asked_with(self, page, **fields):
        """What the page asks has these fields too."""
        def more(route):
            body = json.loads(route.request.post_data)
            route.continue_(post_data=json.dumps({**body, **fields}))
        page.route("**/v1/chat/completions", more)

    def canned(self, page, text):
        bodies = []

        def answer(route):
            bodies.append(json.loads(route.request.post_data))
            route.fulfill(status=200, content_type="text/event-stream", body=sse(text))
        page.route("**/v1/chat/completions", answer)
        return bodies

    def ask(self, page, text):
        page.fill("#input", text)
        page.press("#input", "Enter")

    # ---- the chat ----

    def test_conversation(self):
        page = self.open()
        self.asked_with(page, temperature=0)
        expect(page.locator("#model")).to_contain_text("fable-28m")
        self.picture(page, "chat-welcome")
        self.ask(page, "Hello! How are you?")
        expect(page.locator("article.user")).to_have_text("Hello! How are you?")
        expect(page.locator(".figures")).to_contain_text(re.compile(r"\d+ tokens?.* · first after"))
        first = page.locator("article.assistant .content").inner_text()
        self.assertGreater(len(first), 3)
        page.evaluate("new MutationObserver(changes => { window.told ??= changes[0].target.textContent; })"
                      ".observe(document.querySelector('.copy'), {childList: true})")
        page.click(".copy")
        self.until(page, "window.told")  # not for long on the button itself
        self.assertEqual(page.evaluate("window.told"), "Copied")
        self.assertEqual(page.evaluate("navigator.clipboard.readText()").split(), first.split())
        self.ask(page, "And what then?")
        expect(page.locator("article.assistant .figures")).to_have_count(2)
        expect(page.locator(".again")).to_have_count(1)
        self.picture(page, "chat")
        page.click(".again")
        expect(page.locator("article.assistant .figures")).to_have_count(2)
        expect(page.locator("article")).to_have_count(4)
        page.click("#new")
        expect(page.locator("article")).to_have_count(0)
        expect(page.locator(".welcome")).to_be_visible()

    def test_stop(self):
        server = Server(*SLOW)
        self.addCleanup(lambda: self.assertEqual(0, server.stop()))
        page = self.open(server=server)
        self.asked_with(page, ignore_eos=True, max_tokens=900)  # it goes on until it is stopped
        self.ask(page, "Tell me a story.")
        self.until(page, "document.querySelector('.content')?.innerText.length > 40")
        expect(page.locator("#send")).to_have_text("Stop")
        page.click("#send")
        expect(page.locator(".figures")).to_contain_text("stopped")
        expect(page.locator("#send")).to_have_text("Send")
        self.until(
            page, "fetch('/dashboard/data').then(r => r.json()).then(d => d.engine.running === 0)")
        page.click(".again")  # what was stopped can be asked again
        self.until(page, "document.querySelector('.content')?.innerText.length > 40")
        page.press("body", "Escape")
        expect(page.locator(".figures")).to_contain_text("stopped")
        expect(page.locator("article")).to_have_count(2)

    def test_markdown_is_only_text(self):
        page = self.open()
        self.canned(page, MARKDOWN)
        self.ask(page, EVIL)
        expect(page.locator(".figures")).to_be_visible()
        content = page.locator(".content")
        for tag, n in {"h2": 1, "em": 1, "strong": 1, "ul": 2, "ol": 1, "blockquote": 1, "table": 1,
                       "pre": 1, "a": 1}.items():
            self.assertEqual(content.locator(tag).count(), n, tag)
        self.assertEqual(page.locator("article.user").inner_text(), EVIL)
        self.assertIn(EVIL, content.locator("h2").inner_text())
        self.assertEqual(content.locator("pre").inner_text().strip(), EVIL)
        self.assertEqual(content.locator("p code").inner_text(), "code <b>")
        self.assertEqual(content.locator("ol li").all_inner_texts(), ["first", "second"])
        self.assertTrue(content.locator("a").get_attribute("href").startswith("https://example.com"))
        self.unharmed(page)
        page.click(".copy-code")
        self.assertEqual(page.evaluate("navigator.clipboard.readText()"), EVIL)
        self.picture(page, "chat-markdown")

    def test_markdown_streams_as_it_ends(self):
        """However an answer is cut into pieces, what stands there in the end is the same."""
        page = self.open()
        whole = page.evaluate(
            "t => { const d = el('div'); showMarkdown(d, t); return d.innerHTML; }", MARKDOWN)
        grown = page.evaluate(
            "t => { const d = el('div'); for (let i = 1; i <= t.length; i++) "
            "showMarkdown(d, t.slice(0, i)); return d.innerHTML; }", MARKDOWN)
        self.assertEqual(grown, whole)

    def test_settings_are_sent_and_kept(self):
        page = self.open()
        bodies = self.canned(page, "Yes.")
        page.click("#toggle")
        page.fill("#system", "Be brief.")
        page.fill("#temperature", "0.2")
        page.fill("#max_tokens", "7")
        page.fill("#top_k", "5")
        page.fill("#seed", "11")
        self.picture(page, "chat-settings")
        self.ask(page, "Well?")
        expect(page.locator(".figures")).to_be_visible()
        body = bodies[0]
        self.assertEqual([m["role"] for m in body["messages"]], ["system", "user"])
        self.assertEqual(body["messages"][0]["content"], "Be brief.")
        self.assertEqual((body["temperature"], body["max_tokens"], body["top_k"], body["seed"]),
                         (0.2, 7, 5, 11))
        page.reload()
        self.assertEqual(page.input_value("#temperature"), "0.2")
        page.click("#toggle")
        page.click("#reset")
        self.assertEqual(page.input_value("#temperature"), "0.7")
        self.assertEqual(page.input_value("#max_tokens"), "")

    def test_colours(self):
        for dark in (False, True):
            page = self.open(dark=dark)
            paper = "getComputedStyle(document.body).backgroundColor"
            first = page.evaluate(paper)
            self.assertEqual(sum(map(int, re.findall(r"\d+", first))) < 200, dark)
            page.click("#theme")
            self.assertNotEqual(page.evaluate(paper), first)
            page.reload()
            self.assertNotEqual(page.evaluate(paper), first, "the choice is not kept")

    def test_failure_is_told(self):
        page = self.open(complaints="status of (429|502)")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(
            status=429, json={"error": {"message": f"the queue is full {EVIL}"}}))
        self.ask(page, "Hello?")
        expect(page.locator(".failure")).to_contain_text("the queue is full")
        expect(page.locator(".again")).to_have_text("Try again")
        self.unharmed(page)
        page.unroute("**/v1/chat/completions")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(
            status=502, content_type="text/html", body=EVIL))  # a proxy's
        page.click(".again")
        expect(page.locator(".failure")).to_have_text("the server answered 502")
        self.unharmed(page)

    def test_phone(self):
        page = self.open(size=(390, 844), dark=True)
        self.canned(page, MARKDOWN)
        self.picture(page, "phone-welcome")
        self.ask(page, "Hello! " * 20)
        expect(page.locator(".figures")).to_be_visible()
        self.fits(page)
        page.click("#toggle")
        expect(page.locator("#system")).to_be_visible()
        self.fits(page)
        self.picture(page, "phone-chat")

    # ---- the dashboard ----

    def load(self, n=6):
        """n clients in the background, each asking again and again; returns what ends them."""
        body = {"prompt": "Once upon a time, " * 12, "max_tokens": 600, "ignore_eos": True}
        stop = threading.Event()

        def ask():
            while not stop.is_set():
                self.server.request("POST", "/v1/completions", body)
        threads = [threading.Thread(target=ask) for _ in range(n)]
        for thread in threads:
            thread.start()

        def end():
            stop.set()
            for thread in threads:
                thread.join()
        self.addCleanup(end)
        return end

    def test_dashboard_moves(self):
        page = self.open("/dashboard")
        phone = self.open("/dashboard", size=(390, 844), dark=True)
        expect(page.locator("#dot")).to_have_class("good")
        expect(page.locator("#model")).to_contain_text("fable-28m")
        end_load = self.load()
        expect(page.locator("#calls .badge.writing").first).to_be_visible()
        self.until(page, "parseFloat($('output-rate').textContent) > 1")
        self.until(page, "parseFloat($('kv').textContent) > 0")
        self.until(page, "parseFloat($('itl').textContent) > 0 && "
                         "parseFloat($('ttft').textContent) > 0")
        self.assertGreater(page.locator("#chart-tokens path").count(), 1)
        # Each request holds blocks of its own, the six share their prompt's.
        self.until(page, "last.blocks.shared > 0 && last.calls.filter(c => last.blocks.map.filter("
                         "(code, i) => i % 2 == 0).includes(c.requests[0])).length >= 2")
        self.picture(page, "dashboard")
        self.picture(phone, "phone-dashboard")
        self.fits(page)
        self.fits(phone)
        page.click("#theme")
        self.picture(page, "dashboard-dark")
        end_load()
        expect(page.locator("#calls .none")).to_be_visible()  # once all is answered
        expect(page.locator("#running")).to_have_text("0")
        page.hover("#map", position={"x": 5, "y": 5})
        expect(page.locator("#hover")).to_contain_text("Block 0: ")
        stats = page.evaluate("last")
        self.assertGreaterEqual(stats["engine"]["output_tokens"], 6 * 600)
        self.assertGreater(stats["engine"]["hit_tokens"], 0)
        blocks = stats["blocks"]
        self.assertEqual(blocks["free"] + blocks["cached"] + blocks["used"], blocks["all"])
        self.assertEqual(sum(blocks["map"][1::2]), blocks["all"])
        self.assertLessEqual(set(blocks["map"][::2]), {-1, -2})
        self.assertGreater(blocks["cached"], 0)

    def test_key(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("sesame-open\n")
            keys.flush()
            server = Server("--api-key-file", keys.name, "--model-name", EVIL)
        try:
            page = self.open("/dashboard", server, complaints="status of 401")
            expect(page.locator("#ask")).to_be_visible()
            page.fill("#key", "wrong")
            page.press("#key", "Enter")
            expect(page.locator("#problem")).to_contain_text("not known")
            page.fill("#key", "sesame-open")
            page.press("#key", "Enter")
            expect(page.locator("#dot")).to_have_class("good")
            expect(page.locator("#model")).to_contain_text("<img")
            self.unharmed(page)
            page.goto(f"http://127.0.0.1:{server.port}/")  # the pages share the key
            expect(page.locator("#model")).to_contain_text("<img")
            self.ask(page, "Hello!")
            expect(page.locator(".figures")).to_contain_text("token")
            self.unharmed(page)
            page.evaluate("localStorage.clear()")
            page.reload()
            expect(page.locator("#panel")).to_be_visible()  # it asks for the key by itself
            expect(page.locator("#model")).to_contain_text("API key")
            expect(page.locator("#key")).to_be_focused()
            expect(page.locator("#key")).to_be_in_viewport()
        finally:
            self.assertEqual(server.stop(), 0)
        self.assertNotIn("sesame-open", "".join(server.log))


if __name__ == "__main__":
    unittest.main()
