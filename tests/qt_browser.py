"""Chromium's switches --dump-dom, --screenshot and --window-size by the engine of PyQt6-WebEngine, which pip brings."""

import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = "--no-sandbox --disable-gpu"

from PyQt6.QtCore import QTimer, QUrl  # type: ignore[import-not-found]
from PyQt6.QtWebEngineWidgets import QWebEngineView  # type: ignore[import-not-found]
from PyQt6.QtWidgets import QApplication  # type: ignore[import-not-found]

SETTLE_MS = 500  # painting goes on after loading

switches = dict(part.partition("=")[::2] for part in sys.argv[1:-1])
app = QApplication(sys.argv[:1])
view = QWebEngineView()
view.resize(*(int(side) for side in switches["--window-size"].split(",")))


def dump(html: str) -> None:
    print(html)
    app.quit()


def settled() -> None:
    if "--dump-dom" in switches:
        view.page().toHtml(dump)
    else:
        view.grab().save(switches["--screenshot"])
        app.quit()


view.loadFinished.connect(lambda whole: QTimer.singleShot(SETTLE_MS, settled))
view.load(QUrl(sys.argv[-1]) if "://" in sys.argv[-1] else QUrl.fromLocalFile(str(Path(sys.argv[-1]).resolve())))
view.show()
app.exec()
