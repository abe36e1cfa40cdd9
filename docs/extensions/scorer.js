// How the search ranks what it finds: pages by task and names of the API first, the changelog last.
var Scorer = {
  score: ([docname, , , , score, , kind]) => {
    const folders = ["start/", "howto/", "tutorials/", "troubleshooting/", "coming_from/"];
    const first = kind === "object" || folders.some(folder => docname.startsWith(folder));
    const last = ["changelog", "reference/licences", "concepts/architecture"].includes(docname);
    return score + (first ? 3 : last ? -10 : 0);
  },
  // the rest as Sphinx has it
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
