/** A proxy as the programs of others see it: while its disk is still at the origin, on its way, and here. */
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ExportProcess, startExport } from '../lab/nbd/export-process.ts';
import { waitFor } from '../lab/wait-for.ts';
import { needs, run } from './clients.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

describe('xnbd-export proxy', function () {
  this.timeout(120_000);
  let directory: string;
  let content: Buffer;
  let uri: string;
  let originUri: string;
  let processes: ExportProcess[];

  const path = (name: string) => join(directory, name);

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'xnbd-proxy-'));
    processes = [];
    content = Buffer.alloc(SIZE);
    randomBytes(3 * MIB).copy(content, 5 * MIB);
    randomBytes(MIB).copy(content, 50 * MIB);
    writeFileSync(path('a.img'), '');
    truncateSync(path('a.img'), SIZE);
    const file = openSync(path('a.img'), 'r+');
    for (const [at, length] of [
      [5 * MIB, 3 * MIB],
      [50 * MIB, MIB],
    ] as const)
      writeSync(file, content, at, length, at);
    closeSync(file);
    originUri = `nbd+unix:///disk?socket=${path('a')}`;
    uri = `nbd+unix:///disk?socket=${path('b')}`;
    await start('target', 'a');
    await start('proxy', 'b', '--origin', originUri);
  });

  afterEach(async () => {
    for (const each of processes.reverse()) await each.end('SIGKILL');
    rmSync(directory, { recursive: true });
  });

  async function start(kind: 'target' | 'proxy', site: string, ...args: string[]): Promise<void> {
    const image = ['--image', path(`${site}.img`)];
    processes.push(await startExport(kind, 'disk', path(site), [...image, ...args]));
  }

  const isHere = () =>
    waitFor('every block has arrived', () => processes[1]!.log().includes('the origin is let go'));
  const shown = async (of: string) =>
    (JSON.parse(await run('nbdinfo', '--json', of)) as { exports: Record<string, unknown>[] }).exports[0]!;
  const map = async (of: string) =>
    (
      JSON.parse(await run('qemu-img', 'map', '-f', 'raw', '--output=json', of)) as Record<string, unknown>[]
    ).map(({ start: from, length, zero, data }) => ({ from, length, zero, data }));

  it('nbdinfo shows the same of it as of a target, before and after', async function () {
    needs(this, 'nbdinfo', 'qemu-io');
    const target = await shown(originUri);
    delete target['uri'];
    for (const key of ['can_cache', 'can_df', 'can_fast_zero', 'can_multi_conn', 'can_trim'])
      assert.equal(target[key], true, key);
    const before = await shown(uri);
    for (const [key, value] of Object.entries(target)) assert.deepEqual(before[key], value, key);
    await run('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 4096', uri);
    await isHere();
    const after = await shown(uri);
    for (const [key, value] of Object.entries(target))
      if (key !== 'content') assert.deepEqual(after[key], value, key);
  });

  it('qemu-img maps it as it maps the origin, in standby and when it is here', async function () {
    needs(this, 'qemu-img', 'qemu-io');
    const expected = await map(originUri);
    assert.ok(expected.length >= 5, 'data between holes');
    assert.deepEqual(await map(uri), expected);
    await run('qemu-io', '-f', 'raw', '-c', `write -P 1 ${20 * MIB} 1M`, uri);
    await isHere();
    const later = await map(uri);
    assert.deepEqual(
      later.filter(({ data }) => data === true).map(({ from, length }) => [from, length]),
      [
        [5 * MIB, 3 * MIB],
        [20 * MIB, MIB],
        [50 * MIB, MIB],
      ],
    );
  });

  it('nbdcopy copies it out over four connections while it arrives, and onto it', async function () {
    needs(this, 'nbdcopy', 'qemu-io');
    await run('qemu-io', '-f', 'raw', '-c', `write -P 1 ${30 * MIB} 1M`, uri);
    content.fill(1, 30 * MIB, 31 * MIB);
    await run('nbdcopy', '--connections=4', uri, path('copy.img'));
    assert.ok(readFileSync(path('copy.img')).equals(content));
    content.copyWithin(0, 29 * MIB);
    writeFileSync(path('copy.img'), content);
    await run('nbdcopy', '--connections=4', '--flush', path('copy.img'), uri);
    await isHere();
    assert.ok(readFileSync(path('b.img')).equals(content));
  });

  it('libnbd caches, zeroes fast and asks for one extent, whatever is here', async function () {
    needs(this, '/usr/bin/python3');
    await run('/usr/bin/python3', '-c', 'import nbd').catch(() => {
      console.log('      skipped: python3-libnbd is not installed');
      this.skip();
    });
    const script = `
import nbd, sys
h = nbd.NBD(); h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION); h.connect_uri(sys.argv[1])
def fast_zero(length, offset):
    try: h.zero(length, offset, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as e: return e.errno
h.cache(h.get_size(), 0)
assert fast_zero(4096, 0) == 'ENOTSUP', 'a takeover is not fast'
found = []
h.block_status(h.get_size() - 100, 100, lambda context, offset, entries, error: found.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert found == [5 * 2**20 - 100, 3], found
h.pwrite(b'x' * 512, 0)
h.cache(8 * 2**20, 0)
assert fast_zero(8192, 2**20) is None
assert h.pread(8, 0) == b'x' * 8 and h.pread(8, 2**20) == b'\\0' * 8
h.shutdown()
`;
    await run('/usr/bin/python3', '-c', script, uri);
  });
});
