/** What an export tells of its arrival: the time left, and an alarm when nothing comes for no known reason. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { LogLevel } from '../../src/log/entry.ts';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { openServedProxy, type ServedProxy } from '../../src/relocation/served-proxy.ts';
import { bytesOf } from '../lab/model/content.ts';
import { type SlowOrigin, startSlowOrigin } from '../lab/nbd/slow-origin.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';
import { waitFor } from '../lab/wait-for.ts';

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

describe('an arrival', function () {
  this.timeout(120_000);
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let origin: SlowOrigin;
  let proxy: ServedProxy;
  let said: { level: LogLevel; message: string }[];

  beforeEach(async () => {
    said = [];
    configureLog({ sink: (level, message) => void said.push({ level, message }) });
    directory = await temporaryDirectory();
    // A quarter of it is a hole at the end.
    const content = Buffer.concat([bytesOf(1, (SIZE * 3) / 4), Buffer.alloc(SIZE / 4)]);
    origin = await startSlowOrigin({ directory: directory.path, content });
    proxy = await openServedProxy({
      name: 'disk',
      image: join(directory.path, 'b.img'),
      origin: origin.uri,
      stateDir: join(directory.path, 'b.state'),
      settings: { 'copy-rate': 8e6 },
    });
  });
  afterEach(async () => {
    origin.disk.release();
    await proxy.close();
    await origin.stop();
    await directory.remove();
    configureLog({ sink: writeLine });
  });

  it('depends on the origin for its data, not for its holes; and tells how long', async () => {
    await proxy.takeover();
    const some = await waitFor('a time', () => {
      const told = proxy.describe();
      return told.secondsLeft !== null && told;
    });
    const expected = ((some.missingBytes ?? 0) * 8) / 8e6;
    assert.ok(
      Math.abs(some.secondsLeft! - expected) < expected * 0.3,
      `${some.secondsLeft}, not ${expected}`,
    );
    assert.ok(some.missingBytes! < (SIZE * 3) / 4);
    assert.ok(some.averageRate! > 4e6 && some.averageRate! < 9e6, `${some.averageRate}`);
    assert.equal(some.alarm, null);
  });

  it('raises an alarm when nothing comes although the origin answers, until something comes', async () => {
    await proxy.takeover();
    await waitFor('some of it', () => (proxy.describe().backgroundBytes ?? 0) > 0);
    origin.disk.hold('reads');
    const alarm = await waitFor('the alarm', () => proxy.describe().alarm ?? false, 90_000);
    assert.match(alarm, /^nothing has come for 30 s, and no reason is known$/);
    assert.equal(proxy.describe().originReachable, true);
    const told = said.filter(({ level, message }) => level === 'warning' && message.startsWith(alarm));
    assert.equal(told.length, 1);
    assert.match(told[0]!.message, /\(\d+\.\d MiB\) is only at .* still, the time left is not known; /);
    origin.disk.release();
    await waitFor('the end of it', () => proxy.describe().alarm === null);
    assert.equal(said.filter(({ message }) => message === 'it comes as it should again').length, 1);
  });
});
