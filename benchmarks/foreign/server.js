// A plant of another make: the quadruple tank of Johansson (2000), IEEE Trans. Control Systems Technology 8(3), 456-465,
// with level controllers of its own, served over OPC UA by node-opcua. Nothing of Homeostat is in it.
//
// usage: node server.js PORT CONTROL_PORT [--setting minimum|nonminimum] [--speed N] [--scan SECONDS] [--index N] [--seed N]
//        [--bare] [--lease]
// --index: how many other namespaces are registered before the plant's own. --bare: no handshake at all, the set-points are
// written where they are read. --lease: only the session that asked may beat and write (else the Owner node is the only sign).
//
// By HTTP on CONTROL_PORT: GET /state, GET /writes (every write any client made, with session, plant time and answer),
// GET /set?k=v (faults, below; clear=1 ends them all), GET /operator?LC1=13&MODE1=1&FC1=9 (somebody at the plant's console).
// Faults: old=1 sensors stand still with their stamps, frozen=1 sensors stand still under running stamps, stamp=1601|9999,
// shift=SECONDS (every sensor's stamp), shift_tag=LT1,SECONDS, bad=LT2, alive_stop=1, lie=1 (granted whatever was asked),
// unwatched=1 (the countdown is held), swallow=1 (moves are answered Good and dropped), refuse=1, no_grant=1, text=LT1.
"use strict";
const http = require("node:http");
const { OPCUAServer, DataType, StatusCodes, Variant } = require("node-opcua");

const args = process.argv.slice(2);
const option = (name, otherwise) => (args.includes(name) ? args[args.indexOf(name) + 1] : otherwise);
const [port, controlPort] = args.map(Number);
const speed = Number(option("--speed", 1)), scan_s = Number(option("--scan", 3)), bare = args.includes("--bare");
const lease = args.includes("--lease");
const URI = "http://tanks.example/QuadrupleTank";

// Johansson's table I and II and section II.B: areas in cm2, flows in cm3/s, levels in cm, pump voltages times pump gains.
const AREA = [28, 32, 28, 32], HOLE = [0.071, 0.057, 0.071, 0.057], G = 981, TOP = 20;
const SETTING = {
  minimum: { gamma: [0.7, 0.6], h: [12.4, 12.7, 1.8, 1.4], q: [3.0 * 3.33, 3.0 * 3.35], gain: [5.0, 4.5], integral_s: [30, 40] },
  nonminimum: { gamma: [0.43, 0.34], h: [12.6, 13.0, 4.8, 4.9], q: [3.15 * 3.14, 3.15 * 3.29], gain: [2.4, -0.2], integral_s: [110, 220] },
}[option("--setting", "minimum")];
const TRIP = 18.5, RESET = 15, FLOW = [0, 20], NOISE = 0.05;
const MAN = 1, CAS = 3, RCAS = 5;

let state = Number(option("--seed", 1)) >>> 0; // mulberry32
function uniform() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), state | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());

function slope(h, q) {
  const out = h.map((x, i) => HOLE[i] * Math.sqrt(2 * G * Math.max(x, 0)));
  const inflow = [out[2] + SETTING.gamma[0] * q[0], out[3] + SETTING.gamma[1] * q[1], (1 - SETTING.gamma[1]) * q[1], (1 - SETTING.gamma[0]) * q[0]];
  return h.map((_, i) => (inflow[i] - out[i]) / AREA[i]);
}
function step(h, q, dt) {
  const at = (k, f) => h.map((x, i) => x + f * dt * k[i]);
  const a = slope(h, q), b = slope(at(a, 0.5), q), c = slope(at(b, 0.5), q), d = slope(at(c, 1), q);
  return h.map((x, i) => Math.min(TOP, Math.max(0, x + (dt / 6) * (a[i] + 2 * b[i] + 2 * c[i] + d[i]))));
}

const plant = {
  h: [...SETTING.h], q: [...SETTING.q], set: [SETTING.h[0], SETTING.h[1]], sum: [...SETTING.q], read: [...SETTING.h],
  mode: bare ? [MAN, MAN] : [CAS, CAS], console: [0, 0], remote: [...SETTING.q], permit: false, granted: false, alive: false,
  countdown: 0, owner: "", holder: "", reason: "", tripped: false, trips: 0, highest: [...SETTING.h], scans: 0,
};
const fault = {}, writes = [];
const began = Date.now();
const now_s = () => began / 1000 + ((Date.now() - began) / 1000) * speed;
let done_s = began / 1000, scanned_s = began / 1000, set_at = [began / 1000, began / 1000];

function letGo(reason) {
  if (plant.granted) plant.reason = reason;
  plant.granted = plant.permit = false;
  plant.owner = plant.holder = "";
}
// One scan of the plant's own control system: trip, handshake, modes, level controllers.
function scan() {
  plant.scans += 1;
  plant.read = plant.h.map((x) => x + NOISE * normal());
  const high = Math.max(plant.h[0], plant.h[1]);
  if (!plant.tripped && high > TRIP) { plant.tripped = true; plant.trips += 1; letGo("TRIP: LEVEL HIGH"); }
  if (plant.tripped && high < RESET) plant.tripped = false;
  if (!bare) {
    if (plant.permit && !plant.granted && !plant.tripped && !fault.no_grant) {
      plant.granted = true; plant.countdown = Math.max(plant.countdown, 30); plant.reason = "";
    }
    if (!plant.permit && plant.granted) letGo("GIVEN BACK");
  }
  for (const i of [0, 1]) {
    if (!bare) plant.mode[i] = plant.console[i] || (plant.granted ? RCAS : CAS);
    let q = plant.q[i];
    if (plant.mode[i] === CAS) {
      const error = plant.set[i] - plant.read[i];
      plant.sum[i] = Math.min(FLOW[1], Math.max(FLOW[0], plant.sum[i] + (SETTING.gain[i] * error * scan_s) / SETTING.integral_s[i]));
      q = plant.sum[i] + SETTING.gain[i] * error;
      plant.remote[i] = q; // the remote set-point follows, so that taking over bumps nothing
    } else {
      if (plant.mode[i] === RCAS || bare) q = plant.remote[i];
      plant.sum[i] = q - SETTING.gain[i] * (plant.set[i] - plant.read[i]);
    }
    if (plant.tripped) q = 0;
    q = Math.min(FLOW[1], Math.max(FLOW[0], q));
    if (q !== plant.q[i]) { plant.q[i] = q; set_at[i] = scanned_s; }
  }
}
let looks = 0, show_alive = () => {};
function watch() { // every tenth of a wall second: the countdown, and every other time the alive bit
  if (++looks % 2 === 0 && !fault.alive_stop) { plant.alive = !plant.alive; if (node.ALIVE) show_alive(); }
  if (plant.granted && !fault.unwatched && --plant.countdown <= 0) { plant.countdown = 0; letGo("WATCHDOG"); }
}
function advance() {
  const now = now_s();
  while (scanned_s + scan_s <= now) {
    while (done_s < scanned_s + scan_s - 1e-9) {
      const dt = Math.min(1, scanned_s + scan_s - done_s);
      plant.h = step(plant.h, plant.q, dt);
      done_s += dt;
    }
    plant.highest = plant.highest.map((x, i) => Math.max(x, plant.h[i]));
    scanned_s += scan_s;
    scan();
  }
}

const node = {};
const server = new OPCUAServer({ port, host: "127.0.0.1", hostname: "127.0.0.1", resourcePath: "/tanks", maxConnectionsPerEndpoint: 50, buildInfo: { productName: "tanks" } });
async function main() {
  await server.initialize();
  const space = server.engine.addressSpace;
  for (let k = 0; k < Number(option("--index", 0)); k++) space.registerNamespace(`urn:elsewhere:${k}`);
  const own = space.registerNamespace(URI);
  const folder = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Tanks", nodeId: "i=1" });

  function add(id, name, dataType, onWrite) {
    const variable = own.addVariable({ componentOf: folder, browseName: name, nodeId: `i=${id}`, dataType, minimumSamplingInterval: 20,
      accessLevel: onWrite ? "CurrentRead | CurrentWrite" : "CurrentRead", userAccessLevel: onWrite ? "CurrentRead | CurrentWrite" : "CurrentRead" });
    variable.writeValue = function (context, data, ...rest) { // the standard hook does not tell who writes
      const answer = rest[rest.length - 1], type = DataType[data.value.dataType], value = data.value.value;
      const who = context && context.session;
      const session = who ? `${who.sessionName} (${who.nodeId})` : ""; // clients choose names: only the id is theirs alone
      let status = StatusCodes.BadNotWritable;
      if (onWrite) status = type !== dataType ? StatusCodes.BadTypeMismatch : onWrite(value, session);
      writes.push({ at: Date.now() / 1000, plant_s: now_s(), session, node: name, value, status: status.name, granted: plant.granted });
      publish();
      answer(null, status);
    };
    node[name] = { variable, dataType };
  }
  const strange = (session) => lease && plant.holder !== "" && plant.holder !== session;
  function move(i) {
    return (value, session) => {
      if (fault.refuse || !Number.isFinite(value)) return StatusCodes.BadOutOfRange;
      if (!bare && (plant.mode[i] !== RCAS || strange(session))) return StatusCodes.BadUserAccessDenied;
      if (!fault.swallow) {
        plant.remote[i] = value;
        if (!plant.tripped) { plant.q[i] = Math.min(FLOW[1], Math.max(FLOW[0], value)); set_at[i] = now_s(); }
      }
      return StatusCodes.Good;
    };
  }
  for (const i of [0, 1, 2, 3]) add(1001 + i, `LT${i + 1}`, "Float");
  for (const i of [0, 1]) {
    add(2001 + i, `FC${i + 1}`, "Double", bare ? move(i) : undefined);
    if (bare) continue;
    add(2101 + i, `FC${i + 1}.RSP`, "Float", move(i));
    add(2201 + i, `FC${i + 1}.MODE`, "Int32");
    add(3001 + i, `LC${i + 1}`, "Float");
  }
  if (!bare) {
    add(4003, "ALIVE", "Boolean");
    add(4004, "COUNTDOWN", "UInt16", (value, session) => {
      if (strange(session)) return StatusCodes.BadUserAccessDenied;
      plant.countdown = value;
      return StatusCodes.Good;
    });
    add(4005, "PERMIT", "Int16", (value, session) => {
      if (strange(session) && plant.granted) return StatusCodes.BadUserAccessDenied;
      plant.permit = value === 1;
      plant.holder = plant.permit ? session : "";
      if (!plant.permit) letGo("GIVEN BACK");
      return StatusCodes.Good;
    });
    add(4006, "GRANTED", "Boolean");
    add(4007, "OWNER", "String", lease ? undefined : (value) => { plant.owner = value; return StatusCodes.Good; });
    add(4008, "REASON", "String");
  }
  let held = null;
  function put(name, value, at_s, status) {
    const { variable, dataType } = node[name];
    const type = fault.text === name ? "String" : dataType;
    const variant = new Variant({ dataType: DataType[type], value: type === "String" ? String(value) : value });
    variable.setValueFromSource(variant, status || StatusCodes.Good, new Date(at_s * 1000));
  }
  function publish() {
    if (fault.old || fault.frozen) held = held || { read: [...plant.read], at: scanned_s }; else held = null;
    for (const i of [0, 1, 2, 3]) {
      const name = `LT${i + 1}`, off = (fault.shift_tag || "").split(",");
      let at = fault.old ? held.at : scanned_s;
      if (fault.shift) at += Number(fault.shift);
      if (off[0] === name) at += Number(off[1]);
      if (fault.stamp) at = Date.parse(fault.stamp === "1601" ? "1601-01-01T00:00:00Z" : "9999-12-31T00:00:00Z") / 1000;
      put(name, (held ? held.read : plant.read)[i], at, fault.bad === name ? StatusCodes.BadSensorFailure : undefined);
    }
    for (const i of [0, 1]) {
      put(`FC${i + 1}`, plant.q[i], set_at[i]);
      if (bare) continue;
      put(`FC${i + 1}.RSP`, plant.remote[i], set_at[i]);
      put(`FC${i + 1}.MODE`, plant.mode[i], scanned_s);
      put(`LC${i + 1}`, plant.set[i], began / 1000);
    }
    if (bare) return;
    show_alive();
    put("COUNTDOWN", Math.max(0, plant.countdown), now_s());
    put("PERMIT", plant.permit ? 1 : 0, scanned_s);
    put("GRANTED", fault.lie ? true : plant.granted, scanned_s);
    put("OWNER", lease ? plant.holder : plant.owner, scanned_s);
    put("REASON", plant.reason, scanned_s);
  }
  show_alive = () => put("ALIVE", plant.alive, now_s());
  scan();
  publish();
  await server.start();
  let last = plant.scans;
  setInterval(() => { advance(); if (plant.scans !== last) { last = plant.scans; publish(); } }, 10);
  setInterval(watch, 100);

  http.createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://x");
    let answer = {};
    if (pathname === "/set") {
      if (searchParams.has("clear")) for (const k of Object.keys(fault)) delete fault[k];
      for (const [k, v] of searchParams) if (k !== "clear") fault[k] = v;
      publish();
      answer = { ...fault };
    } else if (pathname === "/operator") {
      for (const [k, v] of searchParams) {
        const i = Number(k.slice(-1)) - 1;
        if (k.startsWith("LC")) plant.set[i] = Number(v);
        if (k.startsWith("MODE")) plant.console[i] = Number(v); // 0: back to what the handshake says
        if (k.startsWith("FC")) { plant.q[i] = plant.remote[i] = Number(v); set_at[i] = now_s(); }
      }
      publish();
    } else if (pathname === "/writes") answer = writes.slice(Number(searchParams.get("from") || 0));
    else answer = { ...plant, time_s: now_s(), wall_s: Date.now() / 1000, fault };
    response.end(JSON.stringify(answer));
  }).listen(controlPort, "127.0.0.1", () => console.log("ready"));
}
process.on("SIGTERM", () => process.exit(0));
process.on("SIGINT", () => process.exit(0));
main().catch((e) => { console.error(e); process.exit(1); });
