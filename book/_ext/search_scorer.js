// The scores of Sphinx itself, but for two kinds of page: the API stands behind the chapters, with 20 points less;
// of pages that only have the word, the glossary comes first: it may say what the word means.
var Scorer = {
  score: ([docname, , , , score]) =>
    score - (/^(api|genindex|py-modindex)/.test(docname) ? 20 : 0) + (docname === "glossary" ? 1 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
