/** One booted host for all tests of a `describe`; where none can be booted they are skipped, and say why. */
import { Machine, type MachineOptions, whyNoMachine } from './machine.ts';

interface Options extends MachineOptions {
  /** At rest there. */
  disks?: readonly string[];
  /** What else is done before it boots. */
  furnish?: (machine: Machine) => Promise<void>;
}

/** Made before the first test of the suite, destroyed after the last. */
export function useMachine(options: Options = {}): () => Machine {
  let machine: Machine | undefined;
  before(async function () {
    const why = await whyNoMachine();
    if (why !== undefined) {
      console.log(`      skipped: ${why}`);
      this.skip();
    }
    machine = await Machine.make(options);
    for (const name of options.disks ?? []) await machine.addDisk(name);
    await options.furnish?.(machine);
    await machine.boot();
  });
  afterEach(async function () {
    if (this.currentTest?.state !== 'failed' || machine === undefined) return;
    const said = await machine.exec(['journalctl', '--no-pager', '--lines=60'], { check: false });
    console.log(said.stdout + said.stderr);
  });
  after(() => machine?.destroy());
  return () => machine!;
}
