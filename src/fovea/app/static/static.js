// The exported page: appended to render.js, whose functions it uses; its data is the json that the page holds.
{
  const { title, words, cards } = JSON.parse(document.getElementById("data").textContent);
  const features = cards.map((data) => el("article", { class: "feature", id: `${data.job}-${data.latent}` },
    el("h1", {}, el("i", { class: `swatch swatch-${data.slot}`, "aria-hidden": "true" }), `${data.job} #${data.latent}`),
    data.marks.notes.length ? el("ul", { class: "notes" }, data.marks.notes.map((note) => el("li", {}, visible(note.text, true)))) : null,
    card(data)));
  document.getElementById("main").replaceChildren(
    el("h1", { class: "title" }, visible(title)),
    el("p", { class: "note" }, visible(words), " D is the domain\u2019s corpus, g the general SAE."),
    el("nav", { "aria-label": "Features" }, el("ul", { class: "contents" }, cards.map((data) => el("li", {}, el("a", { href: `#${data.job}-${data.latent}` }, `${data.job} #${data.latent}`))))),
    ...features);
  themeButton(document.getElementById("theme"));
  tooltips(document.getElementById("main"));
}
