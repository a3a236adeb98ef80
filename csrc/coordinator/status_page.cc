// The status page: one document without anything from elsewhere.
#include "coordinator/status_api.h"

namespace tide::coordinator {

const char kStatusPage[] = R"page(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>torchtide</title>
<meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5d6b7a; --line: #d8dee6; --ground: #f6f8fa;
  --card: #ffffff; --good: #1a7f4b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --soft: #93a1b0; --line: #2d3742;
  --ground: #12171d; --card: #1a2129; --good: #54c98a; --bad: #ff8a80; } }
body { margin: 0; font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); }
header { display: flex; gap: 1.5em; align-items: baseline; padding: 14px 22px; flex-wrap: wrap; }
h1 { font-size: 18px; margin: 0; } h2 { font-size: 14px; margin: 0 0 8px; }
main { display: grid; gap: 14px; padding: 0 22px 22px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; min-width: 0; }
section.wide { grid-column: 1 / -1; }
canvas { width: 100%; height: 180px; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); } td, th { padding: 3px 10px 3px 0; }
td.number, th.number { text-align: right; } .soft { color: var(--soft); }
#events { max-height: 260px; overflow: auto; } #events div { padding: 2px 0; border-top: 1px solid var(--line); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
</style></head><body>
<header><h1>torchtide</h1><span id="machine" class="soft"></span><span id="link" role="status"></span></header>
<main>
<section><h2>Memory by job</h2><canvas id="memory" role="img" aria-label="Memory by job over the last two minutes"></canvas></section>
<section><h2>Turns</h2><canvas id="turns" role="img" aria-label="Who held each lane over the last two minutes"></canvas></section>
<section class="wide"><h2>Jobs</h2><table id="jobs"></table></section>
<section class="wide" id="cluster" hidden><h2>Cluster</h2><p id="clustertext" class="soft"></p><table id="clusterjobs"></table></section>
<section class="wide"><h2>Decisions</h2><div id="events"></div></section>
</main>
<script>
"use strict";
const COLORS = ["#3b7dd8", "#d9822b", "#2f9e6e", "#b0499c", "#8a6fd1", "#c2a01f", "#3aa6b9", "#d0574f"];
const SPAN_S = 120, token = new URLSearchParams(location.search).get("token");
const history_ = [], colorOf = new Map();
let lastSeq = -1;
const byId = (id) => document.getElementById(id);
const color = (name) => { if (!colorOf.has(name)) colorOf.set(name, COLORS[colorOf.size % COLORS.length]); return colorOf.get(name); };
const bytes = (n) => { const units = ["B", "KiB", "MiB", "GiB", "TiB"]; let i = 0; while (n >= 1024 && i < 4) { n /= 1024; ++i; } return (i && n < 10 ? n.toFixed(1) : Math.round(n)) + " " + units[i]; };
async function ask(path) {
  const answer = await fetch(path, { headers: token ? { Authorization: "Bearer " + token } : {} });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}
function row(table, cells, head) {
  const line = table.insertRow();
  for (const cell of cells) {
    const place = document.createElement(head ? "th" : "td");
    if (cell instanceof Node) place.append(cell); else { place.textContent = cell; if (typeof cell === "number") place.className = "number"; }
    line.append(place);
  }
}
function named(name) {
  const span = document.createElement("span"), key = document.createElement("span");
  key.className = "key"; key.style.background = color(name); span.append(key, name); return span;
}
function canvasOf(id) {
  const canvas = byId(id), scale = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = box.width * scale; canvas.height = box.height * scale;
  const pen = canvas.getContext("2d"); pen.scale(scale, scale); pen.font = "11px system-ui";
  return [pen, box.width, box.height];
}
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
function drawMemory(now) {
  const [pen, width, height] = canvasOf("memory");
  let top = 1;
  for (const at of history_) top = Math.max(top, at.jobs.reduce((sum, job) => sum + job.resident + job.outside, 0));
  const x = (time) => width * (1 - (now - time) / SPAN_S);
  history_.forEach((at, i) => {
    const next = i + 1 < history_.length ? history_[i + 1].time : now;
    let y = height;
    for (const job of at.jobs) {
      const tall = (job.resident + job.outside) / top * (height - 18);
      pen.fillStyle = color(job.name); pen.fillRect(x(at.time), y - tall, Math.max(1, x(next) - x(at.time) + 0.5), tall); y -= tall;
    }
  });
  pen.fillStyle = ink("--soft"); pen.fillText(bytes(top), 2, 11);
}
function drawTurns(now) {
  const [pen, width, height] = canvasOf("turns");
  const lanes = [...new Set(history_.flatMap((at) => at.lanes.map((lane) => lane.id)))].sort();
  const tall = Math.min(40, height / Math.max(1, lanes.length));
  const x = (time) => width * (1 - (now - time) / SPAN_S);
  lanes.forEach((id, line) => {
    history_.forEach((at, i) => {
      const lane = at.lanes.find((one) => one.id === id);
      if (!lane || !lane.holder) return;
      const next = i + 1 < history_.length ? history_[i + 1].time : now;
      pen.fillStyle = color(lane.holder); pen.fillRect(x(at.time), line * tall + 14, Math.max(1, x(next) - x(at.time) + 0.5), tall - 18);
    });
    pen.fillStyle = ink("--soft"); pen.fillText("lane " + id, 2, line * tall + 11);
  });
}
function showJobs(jobs) {
  const table = byId("jobs"); table.replaceChildren();
  row(table, ["job", "state", "resident", "demoted", "limit", "iterations", "steps/s", "lane"], true);
  for (const job of jobs) {
    row(table, [named(job.name), job.state, bytes(job.resident), bytes(job.demoted), job.limit ? bytes(job.limit) : "none",
      job.iterations, job.steps_per_s.toFixed(1), job.lane < 0 ? "" : String(job.lane)]);
  }
}
function showCluster(cluster) {
  byId("cluster").hidden = !cluster.serving;
  if (!cluster.serving) return;
  byId("clustertext").textContent = cluster.policy + ": " + (cluster.devices - cluster.devices_free) + " of " + cluster.devices +
    " devices on " + cluster.nodes.filter((node) => node.works).length + " nodes are held; " + cluster.jobs_running + " jobs run, " +
    (cluster.jobs_open - cluster.jobs_running) + " wait" +
    cluster.nodes.filter((node) => node.drains).map((node) => "; " + node.name + " is emptied").join("");
  const table = byId("clusterjobs"); table.replaceChildren();
  row(table, ["job", "user", "state", "devices", "why"], true);
  for (const job of cluster.jobs.slice(0, 200)) {
    row(table, [named(job.key), job.user, job.state, job.devices + " / " + job.devices_wanted, job.text]);
  }
}
function showEvents(events) {
  const list = byId("events");
  for (const event of events) {
    const line = document.createElement("div"), time = document.createElement("span");
    time.className = "soft"; time.textContent = new Date(event.time * 1000).toLocaleTimeString() + "  ";
    line.append(time, event.text); list.prepend(line); lastSeq = Math.max(lastSeq, event.seq);
  }
  while (list.childElementCount > 300) list.lastElementChild.remove();
}
async function recall(now) {  // what was before the page was opened
  const past = await ask("/api/history?since=" + Math.round((now - SPAN_S) * 1000));
  const names = new Map(past.jobs.map((job) => [job.id, job.name]));
  for (const [time, , jobs] of past.samples) {
    history_.push({ time: time / 1000, lanes: [], jobs: jobs.map((job) => ({ name: names.get(job[0]) || "?", resident: job[2], outside: 0 })) });
  }
}
async function refresh() {
  try {
    const state = await ask("/api/state"), told = await ask("/api/events?since=" + lastSeq);
    if (!history_.length) await recall(state.time);
    const live = state.jobs.filter((job) => job.state !== "gone");
    history_.push({ time: state.time, jobs: live, lanes: state.lanes });
    while (history_.length && state.time - history_[0].time > SPAN_S) history_.shift();
    byId("machine").textContent = bytes(state.used) + " of " + bytes(state.capacity) + " in use, " + live.length + " jobs, version " + state.version;
    byId("link").textContent = "live"; byId("link").style.color = ink("--good");
    drawMemory(state.time); drawTurns(state.time); showJobs(state.jobs); showCluster(state.cluster); showEvents(told.events);
    document.body.dataset.ready = "yes";
  } catch (problem) {
    byId("link").textContent = "no answer: " + problem.message; byId("link").style.color = ink("--bad");
  }
  setTimeout(refresh, 1000);
}
refresh();
</script></body></html>
)page";

}  // namespace tide::coordinator
