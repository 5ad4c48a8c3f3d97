// The form: which models there are, asking, stopping, and the API key. `view.js` draws, `stream.js` talks to the server.

import { events, Problem, request } from "./stream.js";
import * as view from "./view.js";

const KEY = "sluice-api-key"; // of sessionStorage: it is gone with the tab
const SPEAK_EVERY_MS = 4000;
const LONGEST = 20_000; // characters that the server renders

const element = (id) => document.getElementById(id);
const [form, question, model, kind] = ["form", "question", "model", "kind"].map(element);

let running = null; // the AbortController of the question that is asked
let spokenAt = 0;

view.useRenderer(async (text) => {
  if (text.length > LONGEST) return null;
  try {
    return (await (await request("page/render", { key: apiKey(), body: { text } })).json()).html;
  } catch {
    return null; // the source is shown already
  }
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
element("stop").addEventListener("click", stop);
kind.addEventListener("change", showJsonField);
element("use-key").addEventListener("click", useKey);
element("key").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // it must not ask
  useKey();
});
for (const example of document.querySelectorAll(".example")) {
  example.addEventListener("click", () => {
    question.value = example.textContent;
    question.focus();
  });
}
element("key").value = apiKey();
showJsonField(); // browsers keep a field's value when a page is loaded again
loadModels();

async function loadModels() {
  try {
    const { data } = await (await request("v1/models", { key: apiKey() })).json();
    const chosen = model.value;
    model.replaceChildren(...data.map(({ id }) => new Option(id, id, false, id === chosen)));
    const ranker = data[0]?.sluice.ranker;
    element("model-hint").textContent = !ranker
      ? "Without a ranker, all samples count alike."
      : ranker.problem
        ? `The ranker does not answer, so all samples count alike: ${ranker.problem}`
        : "A ranker weighs the samples.";
    element("key-field").hidden = !apiKey();
    showProblem(null);
    return true;
  } catch (problem) {
    showProblem(problem);
    return false;
  }
}

async function ask() {
  if (question.value.trim() === "") {
    showProblem(new Problem(0, "Type a question first."));
    return;
  }
  if (running || (!model.value && !(await loadModels())) || running) return;
  running = new AbortController();
  showProblem(null);
  showRunning(true);
  view.clear();
  say("Asking.");
  try {
    await follow(running.signal);
  } catch (problem) {
    if (problem.name === "AbortError") {
      view.showStopped("Stopped. The samples that ran are cancelled.");
      say("Stopped.");
    } else {
      const hasSamples = element("samples").childElementCount > 0;
      if (hasSamples) view.showStopped("The vote was not decided.");
      else view.hide();
      showProblem(problem);
    }
  } finally {
    running = null;
    showRunning(false);
  }
}

function stop() {
  running?.abort();
}

/** Ask the question and show what comes. */
async function follow(signal) {
  const response = await request("v1/chat/completions", { key: apiKey(), body: requestBody(), signal });
  let text = "";
  let report = null;
  for await (const { progress, chunk } of events(response)) {
    if (progress) {
      view.showProgress(progress);
      speak(view.spoken(progress));
    }
    text += chunk?.choices[0]?.delta.content ?? "";
    report = chunk?.adaptive ?? report;
  }
  if (report === null) throw new Problem(0, "The server sent no vote. Ask again.");
  say(view.showReport(report));
  view.showRationale(text); // not awaited: the next question may be asked
}

function requestBody() {
  const adaptive = { answer: { kind: kind.value } };
  if (kind.value === "json") adaptive.answer.field = element("field").value.trim();
  const [most, confidence] = ["max-samples", "confidence"].map((id) => element(id).valueAsNumber);
  if (!Number.isNaN(most)) adaptive.max_samples = most;
  if (!Number.isNaN(confidence)) adaptive.confidence = confidence;
  return { model: model.value, messages: [{ role: "user", content: question.value.trim() }], stream: true, adaptive };
}

function showRunning(isRunning) {
  const [askButton, stopButton] = [element("ask"), element("stop")];
  const focused = document.activeElement;
  askButton.disabled = isRunning;
  stopButton.disabled = !isRunning;
  // A disabled button loses the focus, and with it the place of who uses the keyboard.
  if (isRunning && focused === askButton) stopButton.focus();
  if (!isRunning && focused === stopButton) askButton.focus();
  const { top } = element("answer-heading").getBoundingClientRect();
  // On a phone the answer is below the form: show it, and keep Stop in reach.
  if (isRunning && top > window.innerHeight / 2) askButton.scrollIntoView({ block: "start" });
}

function showJsonField() {
  const isJson = kind.value === "json";
  element("json-field").hidden = !isJson;
  element("field").required = isJson;
}

function showProblem(problem) {
  const alert = element("alert");
  alert.hidden = problem === null;
  alert.textContent = problem === null ? "" : problem instanceof Problem ? problem.message : `The page failed: ${problem}`;
  if (problem === null) return;
  alert.scrollIntoView({ block: "nearest" });
  if (problem.status !== 401) return;
  element("key-field").hidden = false;
  element("key").focus();
}

async function useKey() {
  sessionStorage.setItem(KEY, element("key").value.trim());
  if (await loadModels()) question.focus();
}

function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Tell listeners how the vote goes, now and then. */
function speak(text) {
  if (text === "" || Date.now() - spokenAt < SPEAK_EVERY_MS) return;
  say(text);
}

function say(text) {
  spokenAt = Date.now();
  element("announcer").textContent = text;
}
