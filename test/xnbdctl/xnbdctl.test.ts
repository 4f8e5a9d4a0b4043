import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import type { KnownExport } from '../../src/xnbdctl/known-exports.ts';
import { connectClient } from '../lab/nbd/client.ts';
import { waitFor } from '../lab/wait-for.ts';

const program = (name: string): string => new URL(`../../src/bin/${name}.ts`, import.meta.url).pathname;
const MIB = 1024 * 1024;

interface Said {
  code: number;
  stdout: string;
  stderr: string;
}

describe('xnbdctl', function () {
  // Each case starts several programs.
  this.timeout(60_000);
  let dir: string;
  let config: string;
  const children: ChildProcess[] = [];

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'xnbdctl-'));
    config = join(dir, 'xnbd.conf');
    await mkdir(join(dir, 'run'));
    await writeFile(config, `[paths]\nrun = ${dir}/run\nexports = ${dir}/exports\nimages = ${dir}/images\n`);
  });
  afterEach(async () => {
    for (const child of children.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await rm(dir, { recursive: true });
  });

  function xnbdctl(...args: string[]): Promise<Said> {
    return new Promise((resolve) => {
      execFile(process.execPath, [program('xnbdctl'), ...args], (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      });
    });
  }

  const here = (...args: string[]): Promise<Said> => xnbdctl('--config', config, ...args);

  async function json(...args: string[]): Promise<KnownExport[]> {
    const { stdout, stderr, code } = await here(...args, '--json');
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as KnownExport[];
  }

  /** Starts an export by hand and waits for its `ready` line. */
  async function serve(kind: 'target' | 'proxy', name: string, ...args: string[]): Promise<ChildProcess> {
    const child = spawn(
      process.execPath,
      [
        program('xnbd-export'),
        kind,
        name,
        '--socket',
        join(dir, 'run', `${name}.sock`),
        '--ctl',
        join(dir, 'run', `${name}.ctl`),
        '--state',
        join(dir, 'exports', name),
        ...args,
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    );
    children.push(child);
    for await (const line of createInterface(child.stdout))
      if (line.startsWith(`ready ${name} `)) return child;
    throw new Error(`${name} does not start`);
  }

  async function image(name: string): Promise<string> {
    const path = join(dir, name);
    await writeFile(path, Buffer.alloc(3 * MIB, name));
    await truncate(path, 8 * MIB);
    return path;
  }

  it('shows exports that have a record and no process', async () => {
    const record = newRecord('vm1-vda', '/images/vm1-vda.img', 8 * MIB);
    await writeRecord(join(dir, 'exports', 'vm1-vda'), record);
    await writeRecord(join(dir, 'exports', 'vm2-vda'), {
      ...newRecord('vm2-vda', '/images/vm2-vda.img', 8 * MIB),
      state: 'relocating',
      complete: false,
      origin: { uri: 'nbd://a.example/vm2-vda', uuid: null, generation: 0, lease: record.uuid },
      backgroundBytes: 2 * MIB,
      skippedBytes: MIB,
    });
    const [one, two] = await json('status');
    assert.deepEqual(
      [one!.name, one!.state, one!.pid, one!.sizeBytes, one!.presentBytes, one!.origin, one!.uuid],
      ['vm1-vda', 'serving', null, 8 * MIB, 8 * MIB, null, record.uuid],
    );
    assert.deepEqual(
      [
        two!.name,
        two!.state,
        two!.pid,
        two!.presentBytes,
        two!.origin,
        two!.backgroundBytes,
        two!.skippedBytes,
      ],
      ['vm2-vda', 'relocating', null, 3 * MIB, 'nbd://a.example/vm2-vda', 2 * MIB, MIB],
    );
    assert.match((await here('status')).stdout, /^vm1-vda +serving +8\.0 MiB +100 % .*not running$/m);
    assert.match(
      (await here('list')).stdout,
      /^NAME +STATE +SIZE +PRESENT +LEFT +TROUBLE\nvm1-vda .*\nvm2-vda .*37\.5 %\n$/,
    );
    assert.match((await here('status', 'vm2-vda')).stdout, /^state +relocating, not running$/m);
  });

  it('tells what is wrong in one line, with exit code 1, and 2 for what is written wrongly', async () => {
    assert.deepEqual(await here('list'), { code: 0, stdout: 'no disks\n', stderr: '' });
    for (const [args, code, stderr] of [
      [['status', 'nix'], 1, /^xnbdctl: no disk nix on this host: .*\n$/],
      [['takeover', 'nix'], 1, /^xnbdctl: no export answers on .*nix.ctl: .*\n$/],
      [['watch', 'nix'], 1, /^xnbdctl: no export answers on .*nix\.ctl: .*\n$/],
      [['--ctl', '/nowhere.ctl', 'status'], 1, /^xnbdctl: no export answers on \/nowhere\.ctl: .*\n$/],
      [['status', '../x'], 2, /^xnbdctl: export name '\.\.\/x' is not usable: .*\n$/],
      [['takeover'], 2, /^xnbdctl: which disk\?.*\n$/],
      [['dance'], 2, /unknown command 'dance'/],
      [['status', '--wrong'], 2, /unknown option '--wrong'/],
    ] as const) {
      const said = await here(...args);
      assert.deepEqual([said.code, said.stdout], [code, ''], args.join(' '));
      assert.match(said.stderr, stderr);
    }
    const other = await xnbdctl('--config', join(dir, 'none.conf'), 'list');
    assert.equal(other.code, 1);
    assert.match(other.stderr, /none\.conf/);
  });

  it('says to a user what may not be read: neither that it is missing, nor that there are no disks', async function () {
    if (process.getuid!() !== 0) this.skip();
    const asUser = async (...args: string[]): Promise<string> =>
      new Promise((resolve) => {
        execFile(process.execPath, [program('xnbdctl'), ...args], { uid: 65534, gid: 65534 }, (_, __, said) =>
          resolve(said),
        );
      });
    await chmod(dir, 0o711);
    await chmod(config, 0o600);
    assert.match(
      await asUser('--config', config, 'list'),
      /xnbd\.conf cannot be read \(EACCES\): run as root$/m,
    );
    await chmod(config, 0o644);
    await writeRecord(join(dir, 'exports', 'vm1-vda'), newRecord('vm1-vda', '/images/vm1-vda.img', 8 * MIB));
    await chmod(join(dir, 'exports'), 0o711);
    for (const args of [['list'], ['status', 'vm1-vda']])
      assert.match(
        await asUser('--config', config, ...args),
        /exports.* cannot be read: .*EACCES.*run as root$/m,
      );
  });

  it('a damaged record is one line of trouble among the other disks', async () => {
    await mkdir(join(dir, 'exports', 'vm1-vda'), { recursive: true });
    await writeFile(join(dir, 'exports', 'vm1-vda', 'export.json'), '{');
    await writeRecord(join(dir, 'exports', 'vm2-vda'), newRecord('vm2-vda', '/images/vm2-vda.img', 8 * MIB));
    for (const command of ['list', 'status']) {
      const { code, stdout, stderr } = await here(command);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^vm1-vda +unknown .*vm1-vda\/export\.json .*move the directory .*vm1-vda aside/m);
      assert.match(stdout, /^vm2-vda +serving +8\.0 MiB/m);
    }
    const said = await here('status', 'vm1-vda');
    assert.deepEqual([said.code, said.stdout], [1, '']);
    assert.match(said.stderr, /vm1-vda\/export\.json/);
  });

  it('an export that hangs is shown by its record, and keeps no other waiting', async () => {
    await serve('target', 'a', '--image', await image('a.img'));
    const hangs = await serve('target', 'b', '--image', await image('b.img'));
    hangs.kill('SIGSTOP');
    const [a, b] = await json('list');
    assert.deepEqual([a!.name, a!.pid, a!.problem], ['a', children[0]!.pid, null]);
    assert.deepEqual([b!.name, b!.state, b!.sizeBytes, b!.pid], ['b', 'serving', 8 * MIB, null]);
    assert.match(
      (await here('list')).stdout,
      /^a +serving +8\.0 MiB +100 %\nb +serving .* does not answer$/m,
    );
    assert.match((await here('status', 'b')).stdout, /^state +serving, does not answer$/m);
    const watched = await here('watch', 'b');
    assert.equal(watched.code, 1);
    assert.match(watched.stderr, /b\.ctl did not answer 'watch' within 2 s/);
  });

  it('shows a running export, by configuration and by its socket alone', async () => {
    const child = await serve('target', 'disk', '--image', await image('disk.img'));
    const [status] = await json('status', 'disk');
    assert.deepEqual(
      [status!.name, status!.state, status!.pid, status!.sizeBytes, status!.presentBytes, status!.origin],
      ['disk', 'serving', child.pid, 8 * MIB, 8 * MIB, null],
    );
    const ctl = join(dir, 'run', 'disk.ctl');
    const alone = await xnbdctl('--ctl', ctl, 'status', '--json');
    assert.deepEqual((JSON.parse(alone.stdout) as KnownExport[])[0]!.uuid, status!.uuid);
    const mistaken = await xnbdctl('--ctl', ctl, 'takeover', 'other');
    assert.deepEqual(
      [mistaken.code, mistaken.stderr],
      [1, `xnbdctl: ${ctl} is the socket of disk, not other\n`],
    );
    const refused = await here('abandon', 'disk');
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^xnbdctl: disk: .+\n$/);
  });

  it('takes over, watches until the disk is complete, and shows the counters', async () => {
    await serve('target', 'a', '--image', await image('a.img'));
    const origin = `nbd+unix:///a?socket=${dir}/run/a.sock`;
    await serve('proxy', 'b', '--image', join(dir, 'b.img'), '--origin', origin);
    assert.deepEqual(
      (await json('status')).map(({ name, state }) => [name, state]),
      [
        ['a', 'lent'],
        ['b', 'standby'],
      ],
    );
    const done = await here('takeover', 'b');
    assert.equal(done.code, 0, done.stderr);
    assert.match(done.stdout, /^b: (relocating|serving); this host owns the disk\n$/);
    const seen = await here('watch', 'b');
    assert.equal(seen.code, 0, seen.stderr);
    assert.match(seen.stdout, /^b {2}serving {2}100 % .*$/m);
    const [a, b] = await json('status');
    assert.deepEqual([a!.state, b!.state, b!.presentBytes], ['retired', 'serving', 8 * MIB]);
    assert.equal(b!.onDemandBytes + b!.backgroundBytes + b!.skippedBytes, 8 * MIB);
    assert.ok(b!.skippedBytes >= 5 * MIB - 4096 * 2, `${b!.skippedBytes} bytes were holes`);
  });

  it('names the disks in use: those with a client, and those that a move ties to another host', async () => {
    const inUse = async (): Promise<string> => (await here('list', '--in-use')).stdout;
    assert.equal(await inUse(), '');
    await serve('target', 'a', '--image', await image('a.img'));
    assert.equal(await inUse(), '');
    const uri = `nbd+unix:///a?socket=${dir}/run/a.sock`;
    const client = await connectClient(uri);
    assert.equal(await inUse(), 'a\n');
    client.disconnect();
    await waitFor('its client gone', async () => (await inUse()) === '');
    await serve('proxy', 'b', '--image', join(dir, 'b.img'), '--origin', uri);
    assert.equal(await inUse(), 'a\nb\n');
    await here('takeover', 'b');
    await here('watch', 'b');
    assert.equal(await inUse(), '');
    // Without a process the record has to say it.
    await writeRecord(join(dir, 'exports', 'c'), { ...newRecord('c', '/c.img', MIB), state: 'fenced' });
    assert.equal(await inUse(), 'c\n');
  });

  it('shows since when and why an origin cannot be reached, and sets how long requests wait for it', async () => {
    await serve('target', 'a', '--image', await image('a.img'));
    const origin = `nbd+unix:///a?socket=${dir}/run/a.sock`;
    await serve('proxy', 'b', '--image', join(dir, 'b.img'), '--origin', origin);
    const [a] = children;
    a!.kill('SIGKILL');
    await once(a!, 'exit');
    const list = await here('list');
    assert.match(list.stdout, /^b +standby .* origin unreachable since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/m);
    const status = await here('status', 'b');
    assert.match(status.stdout, /^unreachable since \d{4}-.*Z: .+$/m);
    assert.match(status.stdout, /^timeout +requests wait for the origin for ever$/m);
    const set = await here('origin-timeout', 'b', '30');
    assert.equal(set.stdout, 'b: requests wait for the origin for 30 s, then they get EIO\n', set.stderr);
    const wrong = await here('origin-timeout', 'b', 'soon');
    assert.deepEqual([wrong.code, wrong.stdout], [2, '']);
    assert.match(wrong.stderr, /allowed is a number of seconds from 1 to 86400, or none/);
    assert.equal((await here('set', 'b', 'origin-timeout', '0060')).stdout, 'b: origin-timeout = 60\n');
    assert.match((await here('status', 'b')).stdout, /^settings +origin-timeout=60, /m);
    assert.equal((await here('set', 'b', 'origin-timeout', 'default')).stdout, 'b: origin-timeout = none\n');
    for (const [key, value, code, stderr] of [
      ['origin-timeout', 'soon', 2, /origin-timeout = soon: allowed is a number of seconds/],
      ['verify', 'on', 1, /b: verify cannot be changed while the export runs: set it in \[relocation\]/],
      ['mood', 'good', 1, /b: no setting 'mood': there are origin-timeout, /],
    ] as const) {
      const refused = await here('set', 'b', key, value);
      assert.deepEqual([refused.code, refused.stdout], [code, '']);
      assert.match(refused.stderr, stderr);
    }
  });

  it('gives up: the origin serves again, and nothing is left', async () => {
    await serve('target', 'a', '--image', await image('a.img'));
    const origin = `nbd+unix:///a?socket=${dir}/run/a.sock`;
    const proxy = await serve('proxy', 'b', '--image', join(dir, 'b.img'), '--origin', origin);
    const exit = once(proxy, 'exit');
    const said = await here('abandon', 'b');
    assert.equal(said.code, 0, said.stderr);
    assert.match(said.stdout, /^b: given up; the disk stays with nbd\+unix:/);
    await exit;
    assert.deepEqual(
      (await json('status')).map(({ name, state }) => [name, state]),
      [['a', 'serving']],
    );
  });

  it('restart and upgrade replace the processes of disks; those of a release that cannot are told of', async () => {
    assert.equal((await here('restart', '--all')).stdout, 'no disk is served\n');
    await writeFile(join(dir, 'a.img'), Buffer.alloc(MIB));
    const first = await serve('target', 'a', '--image', join(dir, 'a.img'));
    const { stdout: current } = await here('upgrade');
    assert.match(current, /^every disk is served by release \S+, which is installed\n$/);
    const restarted = await here('restart', 'a');
    const pid = /^a: process \d+ is replaced by (\d+), release \S+; 0 clients stay connected\n$/.exec(
      restarted.stdout,
    )?.[1];
    assert.ok(pid !== undefined, restarted.stderr);
    assert.equal((await json('list'))[0]?.pid, Number(pid));
    if (first.exitCode === null) await once(first, 'exit');
    // As a release before this one answers.
    const old = createServer((socket) => {
      createInterface(socket).on('line', (line) => {
        const { id, method } = JSON.parse(line) as { id: number; method: string };
        const status = { name: 'old', state: 'serving', pid: process.pid };
        const answer =
          method === 'status'
            ? { result: status }
            : { error: `no method '${method}': there are status, watch` };
        socket.write(`${JSON.stringify({ id, ...answer })}\n`);
      });
    });
    await new Promise<void>((resolve) => old.listen(join(dir, 'run', 'old.ctl'), resolve));
    try {
      assert.match(
        (await here('upgrade')).stdout,
        /^old: release older, it does not tell which\ninstalled is release \S+: 'xnbdctl upgrade --all' replaces/,
      );
      const refused = await here('upgrade', '--all');
      assert.equal(refused.code, 1);
      assert.match(
        refused.stderr,
        /^xnbdctl: old: its process is of a release that cannot hand over: it runs on as it is; to change/,
      );
    } finally {
      old.close();
      process.kill(Number(pid), 'SIGTERM');
    }
  });
});
