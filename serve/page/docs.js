// Draws the API description from /openapi.json: each operation, the fields it takes, the replies it gives.

const place = document.getElementById("operations");
document.getElementById("base").textContent = new URL("v1", location.href).href;

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`status ${response.status}`);
  draw(await response.json());
} catch (error) {
  const alert = document.getElementById("alert");
  alert.hidden = false;
  alert.textContent = `The description cannot be loaded: ${error.message}. Load this page again.`;
}

function draw(api) {
  document.getElementById("summary").textContent = api.info.summary;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? "Other";
      groups.set(tag, [...(groups.get(tag) ?? []), drawnOperation(api, method, path, operation)]);
    }
  }
  for (const [tag, operations] of groups) place.append(make("h2", [tag]), ...operations);
}

function drawnOperation(api, method, path, operation) {
  const heading = make("h3", [make("span", [method.toUpperCase()], "method"), make("span", [path])]);
  const parts = [heading, make("p", [operation.description ?? ""])];
  const body = operation.requestBody?.content["application/json"]?.schema;
  if (body) parts.push(...drawnFields(api, "Body", body), make("pre", [example(api, path, body)]));
  const reply = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (reply?.$ref) parts.push(folded("Reply", drawnFields(api, "Reply", reply).slice(1)));
  parts.push(folded("Status codes", [drawnStatuses(operation.responses)]));
  return make("section", parts, "operation");
}

/** A table of an object's fields, and after it one of each object inside. */
function drawnFields(api, title, schema, seen = new Set()) {
  const { $ref } = schema;
  const object = resolved(api, schema);
  if (!object.properties || seen.has($ref)) return [];
  seen.add($ref);
  const required = new Set(object.required);
  const rows = Object.entries(object.properties).map(([name, field]) =>
    make("tr", [
      withScope(make("th", [make("code", [name])]), "row"),
      make("td", [[typeOf(api, field), ...(required.has(name) ? ["required"] : []), ...limitsOf(field)].join(", ")]),
      make("td", [field.description ?? ""]),
    ]),
  );
  const head = make("thead", [make("tr", ["Field", "Type", "Meaning"].map((each) => withScope(make("th", [each]), "col")))]);
  const table = make("div", [make("table", [head, make("tbody", rows)])], "scroll");
  table.tabIndex = 0; // so that the keyboard can scroll it
  const inner = Object.values(object.properties).flatMap((field) =>
    references(field).flatMap((each) => drawnFields(api, nameOf(each.$ref), each, seen)),
  );
  return [make("h4", [title]), table, ...inner];
}

function drawnStatuses(responses) {
  const items = Object.entries(responses).map(([status, { description }]) =>
    make("tr", [withScope(make("th", [make("code", [status])]), "row"), make("td", [description])]),
  );
  return make("table", [make("tbody", items)]);
}

function typeOf(api, schema) {
  if (schema.$ref) return resolved(api, schema).properties ? nameOf(schema.$ref) : typeOf(api, resolved(api, schema));
  if (schema.anyOf) return [...new Set(schema.anyOf.map((each) => typeOf(api, each)))].filter((each) => each !== "null").join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeOf(api, schema.items ?? {})}`;
  return schema.type ?? "any";
}

function limitsOf(schema) {
  const names = { minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below" };
  const limits = [schema, ...(schema.anyOf ?? [])].flatMap((each) =>
    Object.entries(names)
      .filter(([name]) => Number.isSafeInteger(Math.ceil(each[name]))) // others are those of the type
      .map(([name, words]) => `${words} ${each[name]}`),
  );
  const isPlain = schema.default !== undefined && schema.default !== null && typeof schema.default !== "object";
  return isPlain ? [...limits, `default ${schema.default}`] : limits;
}

function references(schema) {
  return [schema, schema.items ?? {}, ...(schema.anyOf ?? []), ...(schema.anyOf ?? []).map((each) => each.items ?? {})].filter((each) => each.$ref);
}

function resolved(api, schema) {
  return schema.$ref ? api.components.schemas[nameOf(schema.$ref)] : schema;
}

function nameOf(reference) {
  return reference.split("/").pop();
}

/** A command that works once the model's name is right. */
function example(api, path, schema) {
  const values = { model: "sluice", messages: [{ role: "user", content: "What is 6 × 7?" }], prompt: "6 × 7 =", text: "$x^2$" };
  const wanted = resolved(api, schema).required ?? [];
  const body = JSON.stringify(Object.fromEntries(wanted.map((name) => [name, values[name]])));
  return `curl ${new URL(path.slice(1), location.href)} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
}

function folded(title, children) {
  return make("details", [make("summary", [title]), ...children]);
}

function withScope(cell, scope) {
  cell.scope = scope;
  return cell;
}

function make(name, children, className = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
