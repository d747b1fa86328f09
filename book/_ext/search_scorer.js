// The scores of Sphinx itself, but that a chapter stands before the API: with 20 points less it comes last.
var Scorer = {
  score: ([docname, , , , score]) => score - (/^(api|genindex|py-modindex)/.test(docname) ? 20 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
