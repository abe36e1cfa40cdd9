// Pendulums that only this program knows: a worker in JavaScript, without packages.
// What it answers, and in which bytes, is said in docs/reference/protocol.md.
'use strict';
const [crypto, fs, net, os] = ['node:crypto', 'node:fs', 'node:net', 'node:os'].map(require);

class Fault extends Error {} // what arrived is not allowed: the connection is closed
const fault = (text) => { throw new Fault(text); };
const error = (kind, text) => Object.assign(new Error(text), { kind }); // what an environment raises, as Python names it
// ------------------------------------------------------------------------------------------------- values: msgpack
class Float { constructor(value) { this.value = value; } } // a number that is a float also where it is whole
class Ext { constructor(code, data) { Object.assign(this, { code, data }); } }
const written = (method, size, values) => { // numbers one after another
  const buffer = Buffer.alloc(size * values.length);
  values.forEach((value, i) => buffer[method](value, size * i));
  return buffer;
};
const [u32, f64] = [(...values) => written('writeUInt32LE', 4, values), (values) => written('writeDoubleLE', 8, values)];
const array = (dtype, values, data) => new Ext(1, pack([dtype, [values.length], data]));
const floats = (values) => array('<f8', values, f64(values));
const integers = (values) => array('<i8', values, written('writeBigInt64LE', 8, values.map(BigInt)));
function pack(value) {
  const long = (code, length, ...parts) => Buffer.concat([Buffer.of(code), written('writeUInt32BE', 4, [length]), ...parts]);
  if (value === null) return Buffer.of(0xc0);
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'number') return Buffer.concat([Buffer.of(0xd3), written('writeBigInt64BE', 8, [BigInt(value)])]);
  if (value instanceof Float) return Buffer.concat([Buffer.of(0xcb), written('writeDoubleBE', 8, [value.value])]);
  if (typeof value === 'string') return long(0xdb, Buffer.byteLength(value), Buffer.from(value));
  if (Buffer.isBuffer(value)) return long(0xc6, value.length, value);
  if (value instanceof Ext) return long(0xc9, value.data.length, Buffer.of(value.code), value.data);
  if (Array.isArray(value)) return long(0xdd, value.length, ...value.map(pack));
  return long(0xdf, Object.keys(value).length, ...Object.entries(value).flat().map(pack));
}
const NAMED = { 0xc0: null, 0xc2: false, 0xc3: true };
const NUMBERS = { 0xca: ['FloatBE', 4], 0xcb: ['DoubleBE', 8], 0xcc: ['UInt8', 1], 0xcd: ['UInt16BE', 2], 0xce: ['UInt32BE', 4],
  0xcf: ['BigUInt64BE', 8], 0xd0: ['Int8', 1], 0xd1: ['Int16BE', 2], 0xd2: ['Int32BE', 4], 0xd3: ['BigInt64BE', 8] };
const ELEMENTS = { '<f8': ['DoubleLE', 8], '<f4': ['FloatLE', 4], '<i8': ['BigInt64LE', 8], '<i4': ['Int32LE', 4] };
const numbers = (dtype, data) => Array.from({ length: data.length / ELEMENTS[dtype][1] },
  (_, i) => Number(data[`read${ELEMENTS[dtype][0]}`](i * ELEMENTS[dtype][1])));
function unpack(data) { // floats and integers become numbers, or BigInts; arrays flat lists of numbers
  let at = 0;
  const take = (n) => (at + n > data.length ? fault('a value ends early') : data.subarray(at, (at += n)));
  const size = (n) => take(n).readUIntBE(0, n);
  const small = (n) => (typeof n === 'bigint' && BigInt(Number(n)) === n ? Number(n) : n);
  const text = (n) => new TextDecoder('utf-8', { fatal: true }).decode(take(n));
  const list = (n, depth, next = () => read(depth + 1)) => { const all = []; while (n-- > 0) all.push(next()); return all; };
  const map = (n, depth) => new Map(list(n, depth, () => [read(depth + 1), read(depth + 1)]));
  const ext = (n) => {
    const [code, payload] = [take(1).readInt8(), take(n)];
    if (code === 3 || code === 4) return code === 3 ? unpack(payload) : BigInt(payload.toString()); // a tuple, a long integer
    const [dtype, , elements] = code === 1 || code === 2 ? unpack(payload) : [];
    return dtype in ELEMENTS ? numbers(dtype, elements) : new Ext(code, payload); // which this worker has no use for
  };
  function read(depth) {
    if (depth > 100) fault('a value is too deep');
    const c = take(1)[0];
    if (c < 0x80 || c >= 0xe0) return c < 0x80 ? c : c - 256;
    if (c < 0xc0) return c >= 0xa0 ? text(c & 31) : c >= 0x90 ? list(c & 15, depth) : map(c & 15, depth);
    if (c in NAMED) return NAMED[c];
    if (c in NUMBERS) return small(take(NUMBERS[c][1])[`read${NUMBERS[c][0]}`]());
    if (c >= 0xc4 && c <= 0xc6) return Buffer.from(take(size(1 << (c - 0xc4))));
    if (c >= 0xc7 && c <= 0xc9) return ext(size(1 << (c - 0xc7)));
    if (c >= 0xd4 && c <= 0xd8) return ext(1 << (c - 0xd4));
    if (c >= 0xd9 && c <= 0xdb) return text(size(1 << (c - 0xd9)));
    if (c === 0xdc || c === 0xdd) return list(size(2 << (c - 0xdc)), depth);
    if (c === 0xde || c === 0xdf) return map(size(2 << (c - 0xde)), depth);
    return fault('this is no msgpack');
  }
  const value = read(0);
  return at === data.length ? value : fault('there are bytes after a value');
}
// ---------------------------------------------------------------------------------------- the simulation: a pendulum
const NAME = 'Pendulum';
const box = (size, low, high) => ({ type: 'Box', shape: [size], dtype: '<f8', low: low && new Float(low), high: high && new Float(high) });
const SAMPLE = [['state', box(3, null, null), 'input', ''], ['torque', box(1, -2, 2), 'input', 'N m'],
  ['length', box(1, 0.5, 2), 'input', 'm'], ['next_state', box(3, null, null), 'target', '', 'state']];
const PARAMETERS = [['length', box(1, 0.5, 2), 'additional', 'm']];
const dict = (fields) => ({ type: 'Dict', spaces: fields.map(([name, space]) => [name, space]) });
const described = (fields) => fields.map(([name, { shape, dtype }, role, unit, feeds = '']) => ({ name, shape, dtype, role, unit, feeds }));
const PROGRAM = crypto.createHash('sha256').update(fs.readFileSync(__filename)).digest('hex');
const DESCRIPTION = {
  observation_space: box(3, null, null), observation_spaces: [], action_space: box(1, -2, 2), sample_space: dict(SAMPLE),
  sample_fields: described(SAMPLE), parameter_space: dict(PARAMETERS), parameter_fields: described(PARAMETERS),
  metadata: {}, render_mode: null, max_episode_steps: 50, code: { program: ['worker.js', PROGRAM] },
};
class Pendulum {
  constructor({ gravity = 9.81, ...others }) {
    if (Object.keys(others).length) throw error('TypeError', `${NAME} has no argument ${Object.keys(others)}; there is gravity`);
    Object.assign(this, { gravity, length: 1, theta: 0, omega: 0, steps: 0, random: crypto.randomBytes(32) });
  }
  uniform(low, high) { // each number is made of the hash before: an episode depends on its seed alone
    this.random = crypto.createHash('sha256').update(this.random).digest();
    return low + ((high - low) * this.random.readUIntLE(0, 6)) / 2 ** 48;
  }
  get state() { return [Math.cos(this.theta), Math.sin(this.theta), this.omega]; }
  reset(seed, parameters) {
    if (seed !== null) this.random = Buffer.from(String(seed));
    this.length = this.uniform(0.5, 2);
    if (parameters) [this.length] = parameters.get('length') || [this.length];
    if (!(this.length >= 0.5 && this.length <= 2)) throw error('ValueError', `a length of ${this.length} m is not within 0.5 to 2`);
    Object.assign(this, { theta: this.uniform(-1, 1), omega: this.uniform(-1, 1), steps: 0 });
  }
  step([torque]) {
    if (!Number.isFinite(torque)) throw error('ValueError', `a torque of ${torque} is no finite number`);
    this.omega += 0.02 * (Math.min(2, Math.max(-2, torque)) - (this.gravity / this.length) * Math.sin(this.theta));
    [this.theta, this.steps] = [this.theta + 0.02 * this.omega, this.steps + 1];
    const terminated = Math.abs(this.theta) > 3;
    return { state: this.state, reward: -(this.theta ** 2), terminated, truncated: this.steps >= 50 && !terminated };
  }
}
// ----------------------------------------------------------------------------- environments, and what they are asked
const ALL = 0xffffffff; // number of rows: all environments
const failure = ({ kind = 'RuntimeError', message, stack }, doing, env = -1) => (
  { env, error: `builtins:${kind}`, message, traceback: String(stack), doing });
class Environments {
  constructor(start, descriptions) {
    if (start.get('seeds') !== null) throw error('RuntimeError', 'this worker cannot take the place of one that is lost');
    this.mode = start.get('autoreset_mode');
    const other = descriptions.find((one) => one.get('make') !== 'env' || one.get('env') !== NAME);
    if (other) throw error('ValueError', `this worker makes ${NAME} alone, not ${other.get('env') ?? other.get('make')}`);
    this.envs = descriptions.map((one) => new Pendulum(Object.fromEntries(one.get('arguments'))));
    this.rows = this.envs.map(() => ({ state: [0, 0, 0], reward: 0, terminated: false, truncated: false })); // as sent last
    this.ended = this.envs.map(() => true);
    [this.made, this.paused] = [0, null]; // samples of all rollouts; the episode with which another rollout may continue
  }
  results(indices, infos, failures) { // indices: null for all
    const rows = indices ? indices.map((i) => this.rows[i]) : this.rows;
    const info = infos.length ? new Ext(3, pack([infos.map(([i]) => i), infos.map(([, one]) => one)])) : null;
    return Buffer.concat([Buffer.of(0, 2 | 4, 0, 0), indices ? u32(indices.length, ...indices) : u32(ALL),
      f64(rows.flatMap((row) => row.state)), f64(rows.map((row) => row.reward)), Buffer.from(rows.map((row) => +row.terminated)),
      Buffer.from(rows.map((row) => +row.truncated)), pack([info, [], failures, []])]);
  }
  begin(i, seed = null, options = null) { // an episode; return the info
    const { parameters, ...others } = Object.fromEntries(options || []);
    const names = [...Object.keys(others), ...[...(parameters ? parameters.keys() : [])].filter((name) => name !== 'length')];
    if (names.length) throw error('ValueError', `a reset knows the parameter length alone, not ${names}`);
    this.envs[i].reset(seed, parameters);
    [this.ended[i], this.rows[i]] = [false, { state: this.envs[i].state, reward: 0, terminated: false, truncated: false }];
    return { parameters: { length: floats([this.envs[i].length]) } };
  }
  reset({ seeds, mask, options }) {
    if (seeds.length !== this.envs.length || mask.length !== this.envs.length) fault('a Reset of others');
    return this.results(null, mask.flatMap((wanted, i) => (wanted ? [[i, this.begin(i, seeds[i], options)]] : [])), []);
  }
  step(body) {
    if (body.length < 8 || (body[1] | 1) !== 5 || body[2] || body[3]) fault('a Step of another form'); // 5: with actions
    const n = body.readUInt32LE(4);
    const [begin, count] = n === ALL ? [8, this.envs.length] : [8 + 4 * n, n];
    const end = begin + 8 * count; // an action is one number
    if (body.length < end) fault('a Step without its actions');
    const rows = n === ALL ? [...this.envs.keys()] : Array.from({ length: n }, (_, i) => body.readUInt32LE(8 + 4 * i));
    if (new Set(rows).size < count || rows.some((i) => i >= this.envs.length)) fault('a Step of others');
    const instead = body.length > end ? unpack(body.subarray(end))[0] : null; // of another dtype, or one value for each
    const actions = instead || numbers('<f8', body.subarray(begin, end));
    if (actions.length !== rows.length) fault('actions for others');
    const [infos, failures] = [[], []];
    rows.forEach((i, place) => {
      try { this.stepOne(i, [actions[place]].flat(), infos); } catch (raised) {
        this.ended[i] = failures.push(failure(raised, 'step', i)) > 0;
      }
    });
    return this.results(n === ALL ? null : rows, infos, failures);
  }
  stepOne(i, action, infos) {
    if (this.ended[i] && this.mode === 'DISABLED') throw error('ValueError', 'the episode has ended; reset it');
    if (this.ended[i]) return infos.push([i, this.begin(i)]);
    const row = this.envs[i].step(action);
    const ended = row.terminated || row.truncated;
    const again = ended && this.mode === 'SAME_STEP';
    if (again) infos.push([i, { ...this.begin(i), final_obs: floats(row.state), final_info: {} }]);
    [this.rows[i], this.ended[i]] = [{ ...row, state: this.envs[i].state }, ended && !again];
  }
  call({ kind, name, rows }) {
    const found = { scene: { scene: null }, render: null, call: name === 'has_wrapper_attr' ? false : undefined }[kind];
    if (found === undefined) throw error('AttributeError', `${NAME} has nothing of the name ${name}`);
    return [...(rows || this.envs.keys())].map(() => found);
  }
  async rollout({ episodes, max_steps: longest, limit, made, goes_on: goesOn, reports }, send) { // a part for each episode
    const enough = () => limit > 0 && this.made - made >= limit;
    let run = goesOn ? this.paused : null;
    for (const [episode, seed, options] of episodes) {
      if (enough()) break;
      const [i, samples, begun] = [episode % this.envs.length, [], []];
      const env = this.envs[i];
      if (!run || run.episode !== episode) {
        run = { episode, step: 0, sum: 0, how: '' };
        this.begin(i, seed, options);
        begun.push(episode);
      }
      this.ended[i] = true; // what was under way for Step is over
      while (!run.how && !enough()) {
        const [before, torque] = [env.state, [env.uniform(-2, 2)]];
        const { state, reward, terminated, truncated } = env.step(torque);
        samples.push({ episode, step: run.step, reward, state: before, torque, length: [env.length], next_state: state });
        this.made += 1;
        [run.step, run.sum] = [run.step + 1, run.sum + reward];
        run.how = terminated ? 'terminated' : truncated ? 'truncated' : run.step >= longest ? 'cut' : '';
      }
      this.paused = run.how ? null : run;
      send(this.part(reports, samples, begun, env, run, false));
      await new Promise(setImmediate); // the end of the connection is noticed
    }
    send(this.part(reports, [], [], null, null, true));
  }
  part(reports, samples, begun, env, run, last) { // a RolloutResult
    const [column, unknown] = [(name) => samples.map((one) => one[name]), floats(samples.map(() => NaN))];
    const ended = run && run.how ? [[run.episode, run.step, run.step, new Float(run.sum), {}, run.how]] : [];
    const head = pack([integers(column('episode')), integers(column('step')), ended, last, integers(begun), null,
      reports ? [floats(column('reward')), unknown, unknown, integers([]), []] : null]);
    return Buffer.concat([u32(head.length), head, ...SAMPLE.map(([name]) => f64(column(name).flat())), f64(begun.map(() => env.length))]);
  }
}
// --------------------------------------------------------------------------------------------------- the connection
const TYPES = ('Challenge Hello Welcome Ready Attach Attached Reset Step Results Rollout RolloutResult Call CallResult Predict Prediction '
  + 'Close Closed Failure WatchScenes ScenePart GiveInputs WorkerOffer Assignment Refusal').split(' ');
const KEYS = { Challenge: 'nonce', Welcome: 'proof', Reset: 'mask options seeds slot', Close: 'again', Refusal: 'reason', Call: 'args kind kwargs name rows',
  Rollout: 'episodes goes_on keep_rejected limit made max_rejects max_steps nonfinite reports', WatchScenes: 'interval rows',
  GiveInputs: 'changes env', Assignment: 'environments start' };
const LEGAL = { challenge: ['Challenge'], welcome: ['Welcome'], offering: ['Assignment', 'Refusal'], closing: [],
  ready: ['Reset', 'Step', 'Rollout', 'Call', 'Close', 'WatchScenes', 'GiveInputs'] };
const ASIDE = ['WatchScenes', 'GiveInputs']; // no requests; this worker has no pictures and no inputs
function connect(host, port, token, count, deadline) {
  const [socket, nonce] = [net.connect({ host, port, noDelay: true }), crypto.randomBytes(32)];
  const proof = (role, of) => crypto.createHmac('sha256', token).update(role).update(Buffer.alloc(8, 0xff)).update(of).digest(); // ff: -1
  let [state, envs, asked, serving, status, chunks, have, header] = ['challenge', null, 0, Promise.resolve(), 1, [], 0, null];
  const send = (type, body, sequence = 0) => {
    const data = Buffer.isBuffer(body) ? body : pack(body);
    socket.write(Buffer.concat([Buffer.from('PG'), Buffer.of(7, TYPES.indexOf(type)), u32(sequence, data.length, 0), data]));
  };
  function check(h) { // the header of a frame; return type, sequence number and length of the body
    const [type, sequence, length] = [TYPES[h[3]], h.readUInt32LE(4), h.readBigUInt64LE(8)];
    if (h.toString('latin1', 0, 2) !== 'PG' || h[2] !== 7) fault('it is of another protocol, or version');
    if (length > (state === 'challenge' || state === 'welcome' ? 2 ** 10 : 2 ** 30)) fault('it is too long');
    if (!LEGAL[state].includes(type)) fault(`there is no message ${h[3]} while ${state}`);
    if (state === 'ready' && !ASIDE.includes(type)) asked = (asked + 1) >>> 0;
    if (sequence !== asked) fault('it has another sequence number');
    if (type === 'Close') state = 'closing';
    return [type, sequence, Number(length)];
  }
  async function serve(type, body, sequence) {
    try {
      if (type !== 'Rollout') envs.paused = null;
      if (type === 'Reset') send('Results', envs.reset(body), sequence);
      else if (type === 'Step') send('Results', envs.step(body), sequence);
      else if (type === 'Call') send('CallResult', { results: envs.call(body) }, sequence);
      else if (type === 'Rollout') await envs.rollout(body, (part) => send('RolloutResult', part, sequence));
      else { status = 0; send('Closed', {}, sequence); socket.destroySoon(); }
    } catch (raised) {
      if (raised instanceof Fault) socket.destroy(raised); else send('Failure', failure(raised, type), sequence);
    }
  }
  function receive(type, sequence, raw) {
    const value = type === 'Step' ? raw : unpack(raw);
    if (type !== 'Step' && !(value instanceof Map && [...value.keys()].sort().join(' ') === KEYS[type])) fault('it has other keys');
    const body = type === 'Step' ? raw : Object.fromEntries(value);
    if (type === 'Challenge') {
      send('Hello', { worker: -1, pid: process.pid, nonce, proof: proof('worker', body.nonce) });
      state = 'welcome';
    } else if (type === 'Welcome') {
      if (!proof('parent', nonce).equals(body.proof)) fault('it does not know the token');
      const versions = { packages: { node: process.version }, codes: { [NAME]: { packages: { program: PROGRAM } } } };
      state = send('WorkerOffer', { count, host: os.hostname(), versions }) || 'offering';
    } else if (type === 'Refusal') {
      status = body.reason ? console.error(`worker.js: ${body.reason}`) || 1 : 0; // no reason: the run is over
      socket.destroySoon();
    } else if (type === 'Assignment') {
      try {
        envs = new Environments(body.start, body.environments);
        send('Ready', { count: envs.envs.length, description: DESCRIPTION });
        state = 'ready';
      } catch (raised) {
        console.error(`worker.js: ${raised.message}`);
        socket.destroySoon(send('Failure', failure(raised, 'construction')));
        state = 'closing';
      }
    } else if (!ASIDE.includes(type)) serving = serving.then(() => serve(type, body, sequence));
  }
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    have += chunk.length;
    try {
      while (have >= (header ? header[2] : 16) && !socket.destroyed) {
        const data = chunks.length > 1 ? Buffer.concat(chunks) : chunks[0];
        const [[type, sequence, size], body] = [header || [null, 0, 16], header];
        [chunks, have, header] = [[data.subarray(size)], have - size, body ? null : check(data)];
        if (body) receive(type, sequence, data.subarray(0, size));
      }
    } catch (fault) { socket.destroy(fault); } // and all else that a body leads to
  });
  socket.on('error', (fault) => fault.code || console.error(`worker.js: the parent sent what is not allowed: ${fault.message}`));
  socket.on('close', () => { // before it was let in: nobody listens yet, or the parent has no room
    if (!['challenge', 'welcome'].includes(state) || Date.now() > deadline) process.exit(status);
    setTimeout(connect, 200, host, port, token, count, deadline);
  });
}
const [, , address, ...options] = process.argv;
const option = (name, otherwise) => (options.includes(name) ? options[options.indexOf(name) + 1] : otherwise);
const [, hostname, portNumber] = /^\[?(.*?)\]?:(\d+)$/.exec(address) || [];
if (!hostname || !option('--token-file')) process.exit(console.error('usage: node worker.js HOST:PORT --token-file FILE [--envs K]') || 2);
const secret = Buffer.from(fs.readFileSync(option('--token-file'), 'utf8').trim(), 'hex');
connect(hostname, Number(portNumber), secret, Number(option('--envs', 1)), Date.now() + 10000);
