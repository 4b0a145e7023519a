// Parts marked data-live="SECONDS" are fetched again while they are looked at, and put in place
// if they have changed. Without this script a page shows what was true when it was opened.
"use strict";

for (const [place, part] of document.querySelectorAll("[data-live]").entries()) {
  const wait = 1000 * Number(part.dataset.live);
  const look = async () => {
    if (document.hidden || part.contains(document.activeElement)) {
      setTimeout(look, wait);
      return;
    }
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelectorAll("[data-live]")[place];
      if (answer.redirected || (answer.ok && !fresh)) {
        location.reload(); // signed out meanwhile, or what was looked at has ended
        return;
      }
      if (answer.ok && fresh && fresh.innerHTML !== part.innerHTML) {
        part.replaceChildren(...fresh.childNodes);
      }
    } catch (error) {
      // the server is away for a moment: ask again
    }
    setTimeout(look, wait);
  };
  setTimeout(look, wait);
}
