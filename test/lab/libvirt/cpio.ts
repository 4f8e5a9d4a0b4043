/** One file or (without `content`) directory of an archive. */
export type CpioEntry = { path: string; mode: number; content?: Buffer };

const HEADER_BYTES = 110;

const padded = (bytes: number): number => (4 - (bytes % 4)) % 4;

function record(
  inode: number,
  { path, mode, content = Buffer.alloc(0) }: CpioEntry,
  links: number,
): Buffer[] {
  const name = Buffer.from(`${path}\0`);
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, name.length, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
  return [
    Buffer.from(header),
    name,
    Buffer.alloc(padded(HEADER_BYTES + name.length)),
    content,
    Buffer.alloc(padded(content.length)),
  ];
}

/** An archive in the "newc" format, which the Linux kernel unpacks as initramfs. */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const S_IFDIR = 0o040000;
  const S_IFREG = 0o100000;
  const records = entries.flatMap((entry, index) =>
    record(index + 1, { ...entry, mode: entry.mode | (entry.content ? S_IFREG : S_IFDIR) }, 1),
  );
  return Buffer.concat([...records, ...record(0, { path: 'TRAILER!!!', mode: 0 }, 1)]);
}
