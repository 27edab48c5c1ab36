"""A real headless Chromium, driven over its DevTools socket; every wait has an end."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

BINARY = next(
    (path for name in ('chromium', 'chromium-browser', 'google-chrome') if (path := shutil.which(name))), None
)
_PATIENCE = 60.0
_ARGUMENTS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
    '--remote-debugging-port=0',
)


class Chromium:
    """One browser with one tab.

    Events that matter to a test are collected: ``requests`` (URLs), ``complaints`` (console errors and exceptions).
    """

    def __init__(self, profile: Path):
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._number = 0
        assert BINARY
        command = [BINARY, *_ARGUMENTS, f'--user-data-dir={profile}', 'about:blank']
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = self._port(profile / 'DevToolsActivePort')
            with urlopen(f'http://127.0.0.1:{port}/json/list', timeout=_PATIENCE) as answer:
                tab = next(target for target in json.load(answer) if target['type'] == 'page')
            self._socket = connect(tab['webSocketDebuggerUrl'], max_size=None, open_timeout=_PATIENCE)
            for domain in ('Page', 'Runtime', 'Network', 'Log'):
                self.call(f'{domain}.enable')
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        self._stop()

    def look(self, width: int, height: int = 800, dark: bool = False, paper: bool = False) -> None:
        """Set the viewport, the colour scheme and the medium."""
        size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 600}
        self.call('Emulation.setDeviceMetricsOverride', **size)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.call('Emulation.setEmulatedMedia', media='print' if paper else 'screen', features=[scheme])

    def open(self, page: Path) -> None:
        self.requests.clear()
        self.complaints.clear()
        self._events.clear()
        self.call('Page.navigate', url=page.as_uri())
        end = time.monotonic() + _PATIENCE
        while not any(event['method'] == 'Page.loadEventFired' for event in self._events):
            self._receive(end)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def screenshot(self, whole: bool = True) -> bytes:
        return base64.b64decode(self.call('Page.captureScreenshot', captureBeyondViewport=whole)['data'])

    def pdf(self) -> bytes:
        return base64.b64decode(self.call('Page.printToPDF', preferCSSPageSize=True, printBackground=False)['data'])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({'id': self._number, 'method': method, 'params': params}))
        end = time.monotonic() + _PATIENCE
        while True:
            message = self._receive(end)
            if message.get('id') == self._number:
                assert 'error' not in message, message
                return message['result']

    def _receive(self, end: float) -> dict[str, Any]:
        message = json.loads(self._socket.recv(timeout=max(0.0, end - time.monotonic())))
        if 'method' in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        method, params = event['method'], event['params']
        if method == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif method == 'Runtime.exceptionThrown':
            self.complaints.append(params['exceptionDetails']['text'])
        elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
            self.complaints.append(str(params['args']))
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.complaints.append(params['entry']['text'])

    def _port(self, file: Path) -> int:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if file.is_file() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            if self._process.poll() is not None:
                raise RuntimeError(f'chromium ended with status {self._process.returncode} before it could be used')
            time.sleep(0.05)
        raise TimeoutError('chromium did not open its DevTools port')

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
