// Draws how a vote goes and how it ended. Knows elements and the server's JSON, nothing of requests.

const STATES = {
  running: "… running",
  finished: "○ finished",
  counted: "✓ counted",
  cancelled: "✕ cancelled",
  failed: "! failed",
};

const element = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const plural = (count, word) => `${numbers.format(count)} ${word}${count === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(share * 100)} %`;

/** Turns a text with LaTeX into HTML; set by the page, which knows the server. */
let render = async () => null;
export function useRenderer(renderer) {
  render = renderer;
}

let samples = [];

/** Make room for a new question. */
export function clear() {
  samples = [];
  for (const id of ["votes", "samples", "rationale", "facts"]) element(id).replaceChildren();
  for (const id of ["rationale-section", "facts"]) element(id).hidden = true;
  for (const id of ["votes-section", "samples-section"]) element(id).hidden = false;
  element("no-votes").hidden = false;
  showAnswer(element("answer"), "");
  element("verdict").textContent = "";
  element("reason").textContent = "Waiting for the first sample …";
}

/** Forget what was drawn, when there is nothing to show of a question. */
export function hide() {
  clear();
  for (const id of ["votes-section", "samples-section"]) element(id).hidden = true;
  element("reason").textContent = "No answer.";
}

/** Show how the vote stands, as the server reports it. */
export function showProgress(progress) {
  samples = progress.samples;
  drawSamples();
  drawVotes(progress.votes, false);
  const leader = progress.votes[0];
  if (leader) {
    showAnswer(element("answer"), leader.answer);
    element("verdict").textContent = "leads";
  }
  const counted = samples.filter((sample) => sample.state === "counted").length;
  const running = samples.filter((sample) => sample.state === "running").length;
  element("reason").textContent = `${plural(counted, "sample")} counted, ${numbers.format(running)} running.`;
}

/** What a listener is told while the vote goes on. */
export function spoken(progress) {
  const counted = progress.samples.filter((sample) => sample.state === "counted").length;
  const leader = progress.votes[0];
  if (counted === 0) return "";
  return `${plural(counted, "sample")} counted. ${leader ? `${leader.answer} leads.` : "No answer yet."}`;
}

/** Show that the vote ended without an answer: what ran is cancelled. */
export function showStopped(reason) {
  cancelRest();
  drawSamples();
  element("reason").textContent = reason;
}

/** Show how the vote ended, from the block `adaptive`. Returns the sentence for listeners. */
export function showReport(report) {
  cancelRest();
  drawSamples(report.sample);
  drawVotes(report.votes, true);
  showAnswer(element("answer"), report.answer ?? "No answer");
  element("verdict").textContent = report.answer === null ? "" : "won";
  const isRankerLost = !["used", "none"].includes(report.ranker);
  const reason = reasonOf(report) + (isRankerLost ? ` The ranker's scores did not count: ${report.ranker}.` : "");
  element("reason").textContent = reason;
  drawFacts(report);
  return `${report.answer === null ? "" : `The answer is ${report.answer}. `}${reason}`;
}

/** Show the winning sample's text: at once as it is, then with its mathematics. */
export async function showRationale(text) {
  const place = element("rationale");
  element("rationale-section").hidden = false;
  place.textContent = text;
  const html = await render(text);
  if (html !== null && place.textContent === text) place.innerHTML = html; // escaped by the server, see mathml.py
}

function reasonOf(report) {
  if (report.answer === null) return "No sample states an answer. Below is the best of them.";
  const used = plural(report.samples.used, "sample");
  return (
    {
      decided: `Decided after ${used}: the leading answer would very probably stay ahead.`,
      max_samples: `All ${used} were drawn.`,
      max_tokens: `The budget of tokens was spent after ${used}.`,
      deadline: `Time was up after ${used}: this answer led.`,
      failed: `The other samples failed: this answer led after ${used}.`,
    }[report.stop_reason] ?? `Stopped after ${used}: ${report.stop_reason}.`
  );
}

function drawFacts(report) {
  const { used, cancelled, failed } = report.samples;
  const facts = [
    ["Samples used", numbers.format(used)],
    ["Cancelled", numbers.format(cancelled)],
    ...(failed ? [["Failed", numbers.format(failed)]] : []),
    ["Tokens", numbers.format(report.tokens)],
    ["Tokens saved", report.tokens_saved ? `≈ ${numbers.format(report.tokens_saved)}` : "0"],
    ...(report.confidence === null ? [] : [["Confidence", percent(report.confidence)]]),
    ["Margin", percent(report.margin)],
    ["Time", `${report.seconds.toFixed(1)} s`],
  ];
  element("facts").replaceChildren(
    ...facts.map(([name, value]) => make("div", {}, [make("dt", {}, [name]), make("dd", {}, [value])])),
  );
  element("facts").hidden = false;
}

function drawSamples(shown = -1) {
  const list = element("samples");
  for (const sample of samples) {
    const cell = list.children[sample.index] ?? list.appendChild(newCell(sample.index));
    const isShown = sample.index === shown;
    cell.dataset.state = sample.state;
    cell.dataset.shown = isShown;
    const [, answer, state, more] = cell.children;
    setAnswer(answer, sample.answer ?? (sample.state === "counted" ? "no answer" : ""));
    state.textContent = STATES[sample.state] ?? sample.state;
    const score = sample.score === null ? "" : ` · score ${sample.score.toFixed(2)}`;
    more.textContent = `${plural(sample.tokens, "token")}${score}${isShown ? " · shown" : ""}`;
  }
}

function newCell(index) {
  const number = make("span", { className: "number" }, [make("span", { className: "unseen" }, ["Sample "]), String(index + 1)]);
  const parts = ["answer", "state", "more"].map((name) => make("span", { className: name }));
  return make("li", { className: "sample" }, [number, ...parts]);
}

function drawVotes(votes, isOver) {
  const list = element("votes");
  const rows = new Map([...list.children].map((row) => [row.dataset.answer, row]));
  const wanted = votes.map((vote) => {
    const row = rows.get(vote.answer) ?? newVote(vote.answer);
    const [head, bar] = row.children;
    row.dataset.winner = isOver && vote === votes[0];
    head.lastElementChild.textContent = `${plural(vote.samples, "sample")} · ${percent(vote.share)}`;
    return [row, bar.firstElementChild, percent(vote.share).replace(" ", "")];
  });
  const order = wanted.map(([row]) => row);
  // A row that is put in anew does not grow but jumps: leave those in place that are.
  if (order.some((row, index) => list.children[index] !== row)) list.replaceChildren(...order);
  element("no-votes").hidden = order.length > 0;
  element("no-votes").textContent = isOver ? "No sample states an answer." : "No sample has stated an answer yet.";
  requestAnimationFrame(() => wanted.forEach(([, fill, width]) => (fill.style.width = width)));
}

function newVote(answer) {
  const text = make("span", { className: "answer" });
  setAnswer(text, answer);
  const row = make("li", { className: "vote" }, [
    make("div", { className: "vote-head" }, [text, make("span", { className: "vote-numbers" })]),
    make("div", { className: "bar", ariaHidden: "true" }, [make("div", { className: "fill" })]),
  ]);
  row.dataset.answer = answer;
  return row;
}

function cancelRest() {
  for (const sample of samples) {
    if (sample.state === "running" || sample.state === "finished") sample.state = "cancelled";
  }
}

function showAnswer(place, answer) {
  setAnswer(place, answer);
  place.hidden = answer === "";
}

/** An answer as text, and with its mathematics once it is converted. */
function setAnswer(place, answer) {
  if (place.dataset.source === answer) return;
  place.dataset.source = answer;
  place.textContent = answer;
  place.title = answer;
  if (!/[\\^_]/.test(answer)) return;
  converted(answer).then((html) => {
    if (html !== null && place.dataset.source === answer) place.innerHTML = html;
  });
}

const conversions = new Map();

function converted(answer) {
  if (!conversions.has(answer)) conversions.set(answer, render(`\\(${answer}\\)`));
  return conversions.get(answer);
}

function make(name, properties, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}
