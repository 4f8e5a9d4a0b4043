import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { RawClient } from '../lab/nbd/raw-client.ts';
import { waitFor } from '../lab/wait-for.ts';
import { needs, run } from './clients.ts';

const MIB = 1024 * 1024;

/** What newer clients ask for, and we do not offer (docs/nbd-support.md). */
const NOT_OFFERED = ['can_block_status_payload'];

describe('xnbd-export target', function () {
  this.timeout(120_000);
  let directory: string;
  let image: string;
  let socket: string;
  let uri: string;
  let server: ExportProcess;

  const start = async (...more: string[]) => {
    server = await startExport('target', 'vm1', socket, ['--image', image, ...more]);
  };

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'xnbd-target-'));
    image = join(directory, 'vm1.img');
    socket = join(directory, 'vm1.sock');
    uri = `nbd+unix:///vm1?socket=${socket}`;
    writeFileSync(image, '');
    truncateSync(image, 64 * MIB);
  });

  afterEach(async () => {
    await server.end('SIGKILL');
    rmSync(directory, { recursive: true });
  });

  it('says that it is ready, and stops cleanly on SIGTERM', async () => {
    await start();
    assert.ok(server.log().includes(`ready vm1 serving ${socket}\n`));
    assert.equal(await server.end(), 0);
    await waitFor('it says so', () => /vm1.*: stopped\n/.test(server.log()));
    assert.throws(() => statSync(socket), /ENOENT/);
  });

  it('nbdinfo sees what it offers', async function () {
    needs(this, 'nbdinfo');
    await start('--listen', '127.0.0.1:0');
    await waitFor('the port is told', () => server.log().includes('127.0.0.1:'));
    const port = /127\.0\.0\.1:(\d+)/.exec(server.log())?.[1];
    for (const address of [uri, `nbd://127.0.0.1:${port}/vm1`, `nbd://127.0.0.1:${port}`]) {
      const {
        exports: found,
        protocol,
        structured,
      } = JSON.parse(await run('nbdinfo', '--json', address)) as {
        protocol: string;
        structured: boolean;
        exports: ({ contexts: string[] } & Record<string, unknown>)[];
      };
      assert.deepEqual([protocol, structured], ['newstyle-fixed', true]);
      assert.equal(found[0]!['export-size'], 64 * MIB);
      assert.deepEqual(found[0]!.contexts, ['base:allocation']);
      for (const can of Object.keys(found[0]!).filter((key) => key.startsWith('can_')))
        assert.equal(found[0]![can], !NOT_OFFERED.includes(can), can);
      assert.equal(found[0]!['is_read_only'], false);
      assert.equal(found[0]!['block_size_preferred'], 4096);
    }
    const list = await run('nbdinfo', '--list', '--json', `nbd+unix://?socket=${socket}`);
    assert.equal(
      (JSON.parse(list) as { exports: { 'export-name': string }[] }).exports[0]!['export-name'],
      'vm1',
    );
    await assert.rejects(
      run('nbdinfo', `nbd+unix:///other?socket=${socket}`),
      /No such file or directory for export: other/,
    );
  });

  it("nbdinfo shows all that it shows of nbdkit's file plugin, and of qemu-nbd", async function () {
    needs(this, 'nbdinfo', 'nbdkit', 'qemu-nbd');
    await start();
    interface Shown extends Record<string, unknown> {
      contexts: string[];
    }
    const shown = (json: string) => (JSON.parse(json) as { exports: Shown[] }).exports[0]!;
    const ours = shown(await run('nbdinfo', '--json', uri));
    const nbdkit = await run('nbdkit', '-U', '-', 'file', image, '--run', 'nbdinfo --json "$uri"');
    const qemuSocket = join(directory, 'q.sock');
    // Not the same one: its locks are ours.
    const copy = join(directory, 'copy.img');
    copyFileSync(image, copy);
    const qemu = spawn('qemu-nbd', ['-f', 'raw', '-k', qemuSocket, copy]);
    try {
      await waitFor('qemu-nbd listens', () => existsSync(qemuSocket));
      for (const json of [nbdkit, await run('nbdinfo', '--json', `nbd+unix:///?socket=${qemuSocket}`)]) {
        const theirs = shown(json);
        assert.equal(theirs['can_flush'], true, 'nbdinfo has shown something');
        for (const [key, value] of Object.entries(theirs)) {
          if (key.startsWith('can_') && value === true && !NOT_OFFERED.includes(key))
            assert.equal(ours[key], true, key);
          if (key.startsWith('block_size_')) assert.equal(ours[key], value, key);
        }
        for (const context of theirs.contexts) assert.ok(ours.contexts.includes(context), context);
      }
    } finally {
      qemu.kill();
    }
  });

  it('qemu-io writes, reads, discards and zeroes', async function () {
    needs(this, 'qemu-io');
    await start();
    const io = (...commands: string[]) =>
      run('qemu-io', '-f', 'raw', '-d', 'unmap', ...commands.flatMap((command) => ['-c', command]), uri);
    await io(
      'write -P 1 0 8M',
      'write -P 2 -f 1000 3333',
      'discard 4M 1M',
      'write -z 6M 4097',
      'write -z -u 7M 1M',
      'flush',
    );
    const out = await io(
      'read -P 1 0 1000',
      'read -P 2 1000 3333',
      'read -P 1 4333 4189971',
      'read -P 0 4M 1M',
      'read -P 0 6M 4097',
      'read -P 0 7M 1M',
    );
    assert.doesNotMatch(out, /Pattern verification failed|error/);
  });

  it('qemu-img converts onto it, compares and maps', async function () {
    needs(this, 'qemu-img');
    await start();
    const source = join(directory, 'source.img');
    const bytes = Buffer.alloc(64 * MIB);
    bytes.fill('data', 3 * MIB, 5 * MIB);
    bytes.fill('more', 40 * MIB, 41 * MIB);
    writeFileSync(source, bytes);
    await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, uri);
    assert.match(await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri), /identical/);
    const map = JSON.parse(await run('qemu-img', 'map', '-f', 'raw', '--output=json', uri)) as {
      start: number;
      length: number;
      data: boolean;
    }[];
    assert.deepEqual(
      map.filter(({ data }) => data).map(({ start, length }) => [start, length]),
      [
        [3 * MIB, 2 * MIB],
        [40 * MIB, MIB],
      ],
    );
  });

  it('nbdcopy copies it out and in, holes as holes', async function () {
    needs(this, 'nbdcopy');
    const bytes = Buffer.alloc(64 * MIB);
    for (let at = 0; at < bytes.length; at += 7 * MIB)
      bytes.fill(createHash('sha256').update(String(at)).digest(), at, at + MIB);
    writeFileSync(image, bytes);
    await start();
    const copy = join(directory, 'copy.img');
    await run('nbdcopy', uri, copy);
    assert.ok(readFileSync(copy).equals(bytes));
    bytes.copyWithin(0, 20 * MIB);
    writeFileSync(copy, bytes);
    await run('nbdcopy', '--flush', copy, uri);
    assert.ok(readFileSync(image).equals(bytes));
  });

  it("fio's nbd engine verifies what it wrote", async function () {
    needs(this, 'fio');
    await start();
    const job = join(directory, 'job.fio');
    const lines = [
      '[verify]',
      'ioengine=nbd',
      `uri=${uri}`,
      'rw=randwrite',
      'bsrange=512-256k',
      'iodepth=16',
    ];
    writeFileSync(
      job,
      [...lines, 'size=32m', 'verify=crc32c', 'verify_fatal=1', 'verify_state_save=0', 'fsync=50', ''].join(
        '\n',
      ),
    );
    await run('fio', '--output', join(directory, 'fio.out'), job);
  });

  it('libnbd in Python reads, writes and asks without structured replies and without GO', async function () {
    needs(this, '/usr/bin/python3');
    await run('/usr/bin/python3', '-c', 'import nbd').catch(() => {
      console.log('      skipped: python3-libnbd is not installed');
      this.skip();
    });
    await start();
    const script = `
import nbd, sys
def connect(flags=nbd.HANDSHAKE_FLAG_MASK, structured=True):
    h = nbd.NBD(); h.set_handshake_flags(flags); h.set_request_structured_replies(structured)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION); h.set_export_name('vm1'); h.connect_unix(sys.argv[1]); return h
a = connect(); b = connect(structured=False); c = connect(flags=0, structured=False)
a.pwrite(b'x' * 70000, 5); b.pwrite(b'y' * 100, 50); c.flush()
for h in (a, b, c): assert h.pread(200, 0) == b'\\0' * 5 + b'x' * 45 + b'y' * 100 + b'x' * 50
assert a.get_structured_replies_negotiated() and not b.get_structured_replies_negotiated()
found = []
a.block_status(a.get_size(), 0, lambda context, offset, entries, error: found.extend(entries))
assert sum(found[::2]) == a.get_size(), found
a.set_strict_mode(0)
try: a.pread(10, a.get_size()); raise SystemExit('read past the end')
except nbd.Error as e: assert e.errno == 'EINVAL', e
try: a.pwrite(b'1', a.get_size()); raise SystemExit('write past the end')
except nbd.Error as e: assert e.errno == 'ENOSPC', e
assert a.can_df() and not b.can_df() and not c.can_df()
assert a.pread_structured(70005, 0, lambda *chunk: 0, flags=nbd.CMD_FLAG_DF) == b'\\0' * 5 + b'x' * 45 + b'y' * 100 + b'x' * 69855
def refused(errno, call, *arguments, **flags):
    try: call(*arguments, **flags)
    except nbd.Error as e: assert e.errno == errno, (call, e)
    else: raise SystemExit(f'{call} {arguments} {flags} was not refused')
for h in (a, b, c):
    h.set_strict_mode(0)
    h.cache(10, 0); h.zero(4096, 8192, flags=nbd.CMD_FLAG_FAST_ZERO); h.zero(4096, 8192, flags=nbd.CMD_FLAG_NO_HOLE)
    refused('EINVAL', h.cache, 10, h.get_size())
    refused('EINVAL', h.trim, 10, h.get_size()); refused('ENOSPC', h.zero, 10, h.get_size())
    refused('EINVAL', h.pread, 0, 0); refused('EINVAL', h.pwrite, b'', 0); refused('EINVAL', h.trim, 0, 0)
    refused('EINVAL', h.pread, 1, 0, flags=1 << 9); refused('EINVAL', h.pwrite, b'1', 0, flags=1 << 9)
    refused('EINVAL', h.flush, flags=nbd.CMD_FLAG_REQ_ONE)
    assert h.pread(1, 0) == b'\\0', 'and goes on'
refused('EINVAL', b.pread, 1, 0, flags=nbd.CMD_FLAG_DF)
for h in (a, b, c): h.shutdown()
`;
    await run('/usr/bin/python3', '-c', script, socket);
  });

  it('every write that was acknowledged survives kill -9', async () => {
    await start();
    const model = new Map<number, number>();
    for (let round = 1; round <= 3; round++) {
      const client = await RawClient.open(socket, 'vm1');
      let acknowledged = 0;
      // Writes go on while it is killed; only those that were answered count.
      for (;;) {
        const block = (acknowledged * 37) % 1000;
        if (acknowledged === 150) server.child.kill('SIGKILL');
        const errno = await client
          .write(block * 4096, Buffer.alloc(4096, round * 50 + (block % 50)))
          .catch(() => -1);
        if (errno !== 0) {
          // Nobody knows about this one.
          model.delete(block);
          break;
        }
        model.set(block, round * 50 + (block % 50));
        acknowledged += 1;
      }
      await server.end('SIGKILL');
      await start();
      const after = await RawClient.open(socket, 'vm1');
      for (const [block, value] of model) {
        const { data } = await after.read(block * 4096, 4096);
        assert.ok(
          data.every((byte) => byte === value),
          `block ${block} in round ${round}`,
        );
      }
      await after.disconnect();
    }
  });

  it('wrong arguments get one clear line each', async () => {
    await start();
    const other = join(directory, 'other.sock');
    const second = join(directory, 'second.img');
    writeFileSync(second, Buffer.alloc(4096));
    const ours = ['--image', image];
    const unused = ['--image', second];
    for (const [name, at, args, line] of [
      ['vm1', other, ours, /cannot open image .*: export 'vm1' \(process \d+\) serves it: stop that/],
      ['vm2', socket, unused, /socket .*vm1\.sock\.ctl is taken/],
      [
        'vm3',
        socket,
        [...unused, '--state', join(directory, 's3'), '--ctl', other],
        /socket .*vm1\.sock is taken/,
      ],
      ['a/b', other, ours, /export name 'a\/b' is not usable/],
      ['vm4', other, ['--image', join(directory, 'none')], /cannot open image .*none: no such file/],
      ['vm5', other, [...ours, '--listen', 'nowhere'], /it must be HOST:PORT/],
    ] as const) {
      await assert.rejects(startExport('target', name, at, args), (error: Error) => {
        assert.match(error.message, line);
        assert.equal(error.message.trimEnd().split('\n').length, 1, error.message);
        return true;
      });
    }
    assert.equal((await RawClient.open(socket, 'vm1')).socket.destroyed, false);
  });
});
