"""Opening a report in the browser, and what is measured of it there."""

from __future__ import annotations

from pathlib import Path

from tests.support.devtools import Page

CONTRAST = """(() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const backdrop = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(', 0)')) return luminance(colour);
    }
    return luminance('rgb(255, 255, 255)');
  };
  const words = [...document.querySelectorAll(
    'p,dd,dt,th,td,li,h1,h2,h3,.chip,.grade,.unit,.sub,summary,figcaption,a,label,select,input,button')]
    .filter((e) => (e.textContent.trim() || e.matches('input')) && e.getClientRects().length && !e.closest('.skip'));
  const drawn = [...document.querySelectorAll('svg.drawing text, svg.graph .node text')];
  const inked = (e) => ratio(luminance(getComputedStyle(e).color), backdrop(e));
  const measured = words.map((e) => [inked(e), e.className, e.textContent]);
  for (const e of drawn) {
    const fill = getComputedStyle(e).fill;
    const rect = e.closest('.node')?.querySelector('rect');
    const inMatrix = ['rgb(255, 255, 255)', 'rgb(0, 0, 0)'].includes(fill);
    if (getComputedStyle(e).opacity !== '1') measured.push([0, 'see-through', e.textContent]);
    if (rect) measured.push([ratio(luminance(fill), luminance(getComputedStyle(rect).fill)), 'node', e.textContent]);
    else if (!inMatrix) measured.push([ratio(luminance(fill), backdrop(e.closest('figure'))), 'svg', e.textContent]);
  }
  return measured.sort((a, b) => a[0] - b[0])[0];
})()"""
"""Least contrast of any word on the page: ratio, kind, words."""


def opened(page: Page, report: Path, width: int = 1280, **how) -> Page:
    """Open a report in a window of this width; complaints and requests of earlier pages are forgotten."""
    page.complaints.clear()
    page.requests.clear()
    page.window(width, **how)
    page.open(report)
    return page


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.run("document.documentElement.scrollWidth") - page.width


def choose(page: Page, control: str, name: str) -> None:
    """Choose an entry of a list by its words."""
    page.run(
        f"{{ const s = document.getElementById({control!r});"
        f" s.value = [...s.options].find((o) => o.text === {name!r}).value; s.dispatchEvent(new Event('change')); }}"
    )
