/**
 * The lines of an INI file, checked one by one before `ini` reads them, because that accepts anything: the
 * last of two equal keys wins, a line without `=` becomes true, `[unclosed` becomes a key, a `#` or `;` cuts
 * a value, a quote may vanish, an indented section is a key. What passes here means to `ini` exactly what it
 * says.
 */

export interface Fault {
  line: number;
  /** What is wrong, and what is allowed. */
  message: string;
}

/** The line of each key whose line is in order, under `SECTION\nKEY`. */
export type Located = ReadonlyMap<string, number>;

/**
 * Name of a key or section: nothing that `ini` gives a meaning (dots nest, brackets make arrays), nor valibot
 * (it drops two words).
 */
const name = /^(?!(?:constructor|prototype)$)[A-Za-z][A-Za-z0-9_-]*$/;

/** `keys`: the sections, and which keys each takes; null for any. `trimmed` is the text to give to `ini`. */
export function checkLines(
  text: string,
  keys: Readonly<Record<string, readonly string[] | null>>,
): { faults: Fault[]; lines: Located; trimmed: string } {
  const faults: Fault[] = [];
  const lines = new Map<string, number>();
  const seen = new Map<string, number>();
  const sections = new Map<string, number>();
  let section: string | undefined;
  const contents = text.split('\n').map((line) => line.trim());
  for (const [index, content] of contents.entries()) {
    const line = index + 1;
    const fault = (message: string): void => {
      faults.push({ line, message });
    };
    if (/\p{Cc}/u.test(content.replaceAll('\t', ''))) {
      fault('control character; allowed is plain text, one KEY = VALUE a line');
    } else if (content === '' || content.startsWith('#') || content.startsWith(';')) {
      // An empty line or a comment.
    } else if (content.startsWith('[')) {
      section = /^\[([^[\]]*)\]$/.exec(content)?.[1];
      if (section === undefined) {
        section = '';
        fault(`'${content.slice(0, 100)}' is no section; allowed is [NAME] alone on its line`);
      } else if (!Object.hasOwn(keys, section)) {
        fault(
          `unknown section [${section}]; allowed are ${Object.keys(keys)
            .map((known) => `[${known}]`)
            .join(' ')}`,
        );
        section = '';
      } else if (sections.has(section)) {
        fault(`section [${section}] again, first in line ${sections.get(section)}; allowed is one of each`);
      } else {
        sections.set(section, line);
      }
    } else {
      checkKey(content, section, line);
    }
  }
  return { faults, lines, trimmed: contents.join('\n') };

  function checkKey(content: string, within: string | undefined, line: number): void {
    const fault = (message: string): void => {
      faults.push({ line, message });
    };
    const equals = content.indexOf('=');
    if (equals < 0) {
      fault(`'${content.slice(0, 100)}' has no '='; allowed is KEY = VALUE`);
      return;
    }
    const key = content.slice(0, equals).trim();
    const value = content.slice(equals + 1).trim();
    if (within === '') return; // Its section is the fault, and has been told.
    if (within === undefined) {
      fault(`'${key.slice(0, 100)}' stands before the first section; allowed is a [SECTION] line before it`);
      return;
    }
    const known = keys[within];
    if (!name.test(key) || (known !== null && known?.includes(key) !== true)) {
      fault(
        known === null || known === undefined
          ? `'${key.slice(0, 100)}' is no name; allowed are letters, digits, '_' and '-', a letter first`
          : `unknown key '${key.slice(0, 100)}' in [${within}]; allowed: ${known.join(', ')}`,
      );
      return;
    }
    const first = seen.get(`${within}\n${key}`);
    if (first !== undefined) {
      fault(`${key} again, first in line ${first}; allowed is one of each`);
      return;
    }
    seen.set(`${within}\n${key}`, line);
    if (value === '') fault(`${key} has no value; leave the line out for the default`);
    else if (/[;#"'\\]/.test(value)) {
      fault(
        `${key} = ${value.slice(0, 100)}: a value has no quotes, '\\', '#' or ';'; a comment has its own line`,
      );
    } else lines.set(`${within}\n${key}`, line);
  }
}
