"""A real browser for tests: Debian's chromium, driven by its own driver."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
#: Why there is no browser here. Empty: there is one.
MISSING = ""
try:
    from axe_core_python.base import AXE_SCRIPT
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
except ImportError as error:
    MISSING = f"{error.name} is not installed: pip install -e '.[test-browser]'"
else:
    if not CHROMIUM or not DRIVER:
        MISSING = "no chromium and chromedriver: apt-get install chromium chromium-driver"

#: Nothing here asks anybody for anything.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


#: A part of a drawing has no method for it.
_CLICK = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))"


class Chrome:
    """A browser with one page.

    Args:
        folder: of its profile, a new one.
    """

    def __init__(self, folder):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*_FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def close(self):
        self.driver.quit()

    def call(self, command, **values):
        """A command of the protocol of Chrome's developer tools."""
        return self.driver.execute_cdp_cmd(command, values)

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def show(self, path, width=1280, height=900, scheme="light", script=True, tail=""):
        """Open a page, with all that was logged before forgotten."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media="", features=[feature])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.driver.get("about:blank")
        self.requests()
        self.console()
        self.driver.get(f"file://{path}{tail}")

    def requests(self):
        """The addresses that were asked for since the last call."""
        messages = [json.loads(each["message"]) for each in self.driver.get_log("performance")]
        sent = [each["message"] for each in messages]
        addresses = [
            each["params"]["request"]["url"]
            for each in sent
            if each["method"] == "Network.requestWillBeSent"
        ]
        return [address for address in addresses if not address.startswith(("data:", "about:"))]

    def console(self):
        """The lines of the console since the last call."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        """Click every element, as a person does who sees all of them."""
        for element in self.all(selector):
            self.run(_CLICK, element)

    def violations(self):
        """What axe finds against the rules of level A and AA, with the elements."""
        self.run(AXE_SCRIPT)
        only = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
        result = self.driver.execute_async_script(
            "const done = arguments[1]; axe.run(document, arguments[0]).then(done)", only
        )
        return [
            (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]])
            for each in result["violations"]
        ]

    def tree(self):
        """The nodes of the accessibility tree that are not ignored: (role, name)."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def printed(self):
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    @contextlib.contextmanager
    def media(self, name):
        """The page as a medium shows it."""
        self.call("Emulation.setEmulatedMedia", media=name)
        yield
        self.call("Emulation.setEmulatedMedia", media="")
