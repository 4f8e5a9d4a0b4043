/**
 * Runs one of the benchmarks: `npm run bench -- NAME [options]`. Each compares, in one run on this machine,
 * with programs that a distribution has; only the ratios say something, and only on a machine that is
 * otherwise quiet.
 */
const benchmarks: Record<string, string> = {
  wan: 'relocations over packets: what a guest feels, how long they take [--rtt --rate --disks --loss ...]',
  local:
    'throughput beside nbdkit, qemu-nbd and nbd-server [--rounds --seconds --rows --servers --against --json]',
  idle: 'a hundred exports that nobody uses: start, memory, CPU [--count --seconds --json]',
};
const defaultName = 'wan';

const first = process.argv[2];
const named = first !== undefined && !first.startsWith('-');
const name = named ? first : defaultName;
if (first === '--help' || !(name in benchmarks)) {
  console.log(`npm run bench -- [NAME] [options]; NAME is one of these (default: ${defaultName})\n`);
  for (const [known, what] of Object.entries(benchmarks)) console.log(`  ${known.padEnd(12)} ${what}`);
  process.exitCode = first === '--help' ? 0 : 2;
} else {
  // What the benchmark itself parses is its options.
  if (named) process.argv.splice(2, 1);
  await import(`./${name}.ts`);
}
