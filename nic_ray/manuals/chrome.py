"""What stands in an HTML page beside the manual: navigation, contents, headers, footers, scripts. It is taken out."""

import re

from bs4 import BeautifulSoup, Tag

DROPPED = (
    "script style template noscript nav footer svg canvas iframe object select option textarea button input "
    "audio video img picture hr dialog"
).split()
NAMES = frozenset(
    "permalink pagenum pagenumber page-number page-break running-head running-header running-footer watermark nav "
    "navbar navheader navfooter navigation nav-path navpath nav-panel navrow breadcrumb breadcrumbs menu toc "
    "tocwrapper localtoc sidetoc toctree-wrapper shortcontents summarycontents element-shortcontents "
    "element-contents sphinxsidebar sphinxsidebarwrapper related footer nut_footer skip-link skiplink cookie "
    "searchbox headerlink anchorjs-link list-of-figures list-of-tables list-of-examples printindex-index-entries "
    "ttc memseparator titlearea msearchselectwindow msearchresultswindow main-nav directory levels hlist-index "
    "footnote-backref mobile-nav top-nav page-footer page-header site-header site-footer edit-page printfooter "
    "mw-editsection".split()
)
"""Classes and ids, in lower case, of elements that hold no text of a manual."""
_PAIRS = ({"contents", "topic"}, {"contents", "local"}, {"sidebar", "nav"}, {"summary", "header"})
"""Classes that together mean the same."""
_LINK_WORDS = frozenset(
    "prev previous next up home top back contents index toc content main page of chapter section a »  « | > <".split()
)
_WAY = frozenset("prev previous next up home top index contents start begin last first".split())
LONGEST_WAY = 60
"""Largest number of words of an element with links to the next and the last page that is taken for navigation."""
LEAST_LINKS = 3
LINK_SHARE = 0.9
"""A list of at least `LEAST_LINKS` items, whose text stands for at least this share in links within the manual, is a
list of contents."""
_BLOCKS = ("div", "p", "table", "ul", "ol", "section", "nav", "header")


def strip_chrome(soup: BeautifulSoup) -> None:
    """Take out of a page what is no text of the manual."""
    for element in soup.find_all(DROPPED):
        _remove(element)
    for listing in soup.find_all("div", class_="fragment"):
        # Doxygen numbers the lines of whole files of source, which are no text of a manual, and of nothing else
        if listing.find("span", class_="lineno") is not None:
            _remove(listing)
    most = len(soup.get_text()) / 2
    for element in soup.find_all(True):
        if element.decomposed or not _is_chrome(element):
            continue
        # a frame around the whole manual may be called by any name
        if len(element.get_text()) <= most or _heading_in(element) is None:
            _remove(element)
    for element in soup.find_all(["header", "aside"]):
        if element.decomposed:
            continue
        kept = _heading_in(element) if element.name == "header" else None
        if element.name == "header" and kept is not None:
            element.replace_with(kept.extract())
        elif element.name == "header" or _is_link_list(element):
            _remove(element)
    for link in soup.find_all("a"):
        if not link.decomposed and _shows_the_way(link):
            _remove_around(link)
    for listed in soup.find_all(["ul", "ol", "dl", "table"]):
        if not listed.decomposed and _is_link_list(listed):
            _remove(listed)


def _is_chrome(element: Tag) -> bool:
    if element.name in ("html", "body", "main", "article"):
        return False
    if element.has_attr("hidden") or re.search(r"display\s*:\s*none", str(element.get("style", ""))):
        return True
    names = {name.lower() for name in [*element.get_attribute_list("class"), str(element.get("id") or "")] if name}
    if names & NAMES or any(pair <= names for pair in _PAIRS):
        return True
    if str(element.get("role", "")) in ("navigation", "search", "banner", "contentinfo", "doc-toc", "doc-index"):
        return True
    if element.name == "div" and "header" in names and _heading_in(element) is None:
        titled = element.find(class_="headertitle") is not None
        return not titled and len(element.get_text(" ").split()) <= LONGEST_WAY
    if element.name == "div" and "index" in names:
        return True
    if element.name == "div" and names == {"summary"}:  # Doxygen's links to the parts of a page
        return element.find("a") is not None
    return False


def _heading_in(element: Tag) -> Tag | None:
    found = element.find(re.compile(r"h[1-6]\Z"))
    return found if isinstance(found, Tag) else None


def _shows_the_way(link: Tag) -> bool:
    relations = {str(name).lower() for name in link.get_attribute_list("rel") if name}
    if relations & {"prev", "previous", "next", "up", "contents", "index", "start"} and link.get("href"):
        return True
    words = re.findall(r"[a-z]+", link.get_text(" ").lower())
    key = str(link.get("accesskey", "")).lower()
    return (key in {"p", "n", "u", "h"} or bool(words)) and bool(set(words) & _WAY) and set(words) <= _LINK_WORDS


def _remove_around(link: Tag) -> None:
    """Remove the largest short element around a link to another page that holds links and their titles only."""
    chosen: Tag | None = None
    for parent in link.parents:
        if parent.name in ("body", "html", "main", "article", "[document]"):
            break
        words = parent.get_text(" ").split()
        if len(words) > LONGEST_WAY or parent.find(re.compile(r"h[1-6]\Z")) is not None:
            break
        inside = sum(len(each.get_text(" ").split()) for each in parent.find_all("a"))
        ways = sum(_shows_the_way(each) for each in parent.find_all("a"))
        alone = [word for word in words if word.isalnum()]
        if parent.name in _BLOCKS and ((ways >= 2 and len(words) <= LONGEST_WAY) or len(alone) <= inside):
            chosen = parent
    if chosen is not None:
        _remove(chosen)


def _is_link_list(listed: Tag) -> bool:
    """Whether a list, a table or another element holds little but links within the manual."""
    links = [link for link in listed.find_all("a") if _is_inside(str(link.get("href") or ""))]
    if len(links) < LEAST_LINKS:
        return False
    whole = sum(len(text.strip()) for text in listed.find_all(string=True) if text.strip().strip(" .·|:,–-0123456789"))
    return sum(len(link.get_text().strip()) for link in links) >= LINK_SHARE * whole


def _is_inside(target: str) -> bool:
    return bool(target) and not re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE)


def _remove(element: Tag) -> None:
    # a decomposed parent has taken its children along
    if not element.decomposed:
        element.decompose()
