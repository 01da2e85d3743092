// Node's http and net. `server PORT [WORKERS]`: http on PORT, an echo on PORT+1; with workers as a cluster.
// `client HOST PORT`: uploads and downloads over kept and new connections, echoes over net; compares every hash.
'use strict';
const cluster = require('cluster');
const crypto = require('crypto');
const http = require('http');
const net = require('net');

const [role, ...rest] = process.argv.slice(2);
const sha = (data) => crypto.createHash('sha256').update(data).digest('hex');
const body = (seed, length) => {
  const data = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) data[i] = (x = (x * 1103515245 + 12345) & 0x7fffffff) >> 16;
  return data;
};

function serve(port) {
  http.createServer((request, response) => {
    const hash = crypto.createHash('sha256');
    request.on('data', (chunk) => hash.update(chunk));
    request.on('end', () => {
      const length = Number(new URL(request.url, 'http://x').searchParams.get('length') || 10);
      response.setHeader('x-sha', hash.digest('hex'));
      response.end(body(length, length));
    });
  }).listen(port, '::');
  net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 10000);
    socket.on('error', () => {});
    socket.pipe(socket);
  }).listen(port + 1, '::');
}

function request(agent, host, port, length, data) {
  return new Promise((resolve, reject) => {
    const path = `/?length=${length}`;
    const call = http.request({ agent, host, port, path, method: 'POST' }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const got = Buffer.concat(chunks);
        if (sha(got) !== sha(body(length, length))) reject(new Error(`download of ${length}: ${got.length} bytes`));
        else if (response.headers['x-sha'] !== sha(data)) reject(new Error(`upload of ${data.length}`));
        else resolve();
      });
    });
    call.on('error', reject);
    call.end(data);
  });
}

function echo(host, port, data) {
  return new Promise((resolve, reject) => {
    const chunks = [];
    const socket = net.connect({ host, port }, () => socket.end(data));
    socket.setTimeout(20000, () => socket.destroy(new Error('time-out')));
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('end', () => (sha(Buffer.concat(chunks)) === sha(data) ? resolve() : reject(new Error('echo'))));
  });
}

function refused(host, port) {
  return new Promise((resolve, reject) => {
    net.connect({ host, port }, () => reject(new Error('connected?')))
      .on('error', (error) => (error.code === 'ECONNREFUSED' ? resolve() : reject(error)));
  });
}

async function drive(host, port) {
  const kept = new http.Agent({ keepAlive: true, maxSockets: 8 });
  for (const agent of [kept, new http.Agent()]) {
    const all = [];
    for (let i = 0; i < 60; i++) all.push(request(agent, host, port, i * 1009, body(i, i * 997)));
    all.push(request(agent, host, port, 3000000, body(1, 2000000)));
    await Promise.all(all);
  }
  kept.destroy();
  const echoes = [];
  for (let i = 0; i < 20; i++) echoes.push(echo(host, port + 1, body(i, 1 + i * 40009)));
  await Promise.all(echoes);
  await refused(host, port + 2);
  console.log('fine');
}

if (role === 'client') {
  drive(rest[0], Number(rest[1])).catch((error) => {
    console.error(error);
    process.exit(1);
  });
} else if (rest[1] && cluster.isPrimary) {
  for (let i = 0; i < Number(rest[1]); i++) cluster.fork();
  process.on('SIGTERM', () => process.exit(0));
} else {
  serve(Number(rest[0]));
}
