/**
 * The tree keeps its own rules: what comments and documents name is there, rooms keep their walls, and nothing
 * grows without end.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import ts from 'typescript';
import { writtenDocuments } from '../scripts/docs.ts';
import { importFault } from '../scripts/lint/imports-point-down.ts';

const COLUMNS = { code: 110, documents: 100 };
const FUNCTION_LINES = 70;
const FILE_LINES = 400;
const FLAT_FILES = 12;

/** Folders with more files than that, and why. */
const manyFiles: Readonly<Record<string, string>> = {
  'test/e2e': 'each is one story of two hosts',
  'test/lab/libvirt': 'two real hosts and their guests are one instrument',
};

/** Files and functions that are longer, by the lines that they have at most until they are split. */
const longFiles: Readonly<Record<string, number>> = {
  'src/export/session/session.ts': 430,
};
const longFunctions: Readonly<Record<string, number>> = {
  'src/client/dial.ts': 100,
  'src/config/ini-lines.ts': 81,
  'src/daemon/daemon.ts': 100,
  'src/daemon/guests/watch-guests.ts': 80,
  'src/export/serve.ts': 100,
  'src/gateway/gateway.ts': 78,
  'src/relocation/served-proxy.ts': 78,
  'src/xnbdctl/program.ts': 115,
};

/** What asks for the time of day, because a record or a file has one; durations are measured (performance.now). */
const toldTheTime: readonly string[] = [
  'src/bin/xnbd-hook.ts',
  'src/daemon/hooks/libxl-announcements.ts',
  'src/daemon/registry/moves.ts',
  'src/relocation/origin/outage.ts',
  'src/store/records/departed.ts',
  'src/store/records/record.ts',
];

/** What a comment or document may name without its being here: it is made by running something. */
const madeLater: readonly string[] = ['bench/results'];

process.chdir(join(import.meta.dirname, '..'));
const code = globSync('{src,test,testbed,demo,bench,scripts}/**/*.ts').sort();
const source = code.filter((path) => path.startsWith('src/'));
const documents = ['README.md', ...globSync('{*,docs/**/*}.md')].filter(
  (path, at, all) => all.indexOf(path) === at,
);
const everything = globSync('{src,test,testbed,demo,bench,scripts,docs,etc,hooks,packaging}/**', {
  withFileTypes: true,
})
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name));
const names = new Set(everything.map((path) => basename(path)));

const texts = new Map([...code, ...documents].map((path) => [path, readFileSync(path, 'utf8')]));
const trees = new Map(
  code.map((path) => [path, ts.createSourceFile(path, texts.get(path)!, ts.ScriptTarget.Latest, true)]),
);
const lineOf = (path: string, position: number) =>
  trees.get(path)!.getLineAndCharacterOfPosition(position).line + 1;

describe('the tree', () => {
  it('has what comments and documents name', () => {
    const faults = [
      ...code.flatMap((path) => comments(path).flatMap(({ text, line }) => missing(text, `${path}:${line}`))),
      ...documents.flatMap((path) => lines(path).flatMap((text, at) => missing(text, `${path}:${at + 1}`))),
    ];
    none(faults);
  });

  it('keeps its walls', () => {
    const faults = code.flatMap((path) =>
      imports(path)
        .flatMap(({ to }) => importFault(path, to) ?? [])
        .map((fault) => `${path}: ${fault}`),
    );
    none(faults);
  });

  it(`has lines that fit, but for a message that is searched for in one piece`, () => {
    const faults = [
      ...source.flatMap((path) =>
        lines(path).flatMap((text, at) => {
          const holdsText = /['`].*['`]|^\s*['`]|['`][;,)+]*$/.test(text) && !/^\s*(\/\/|\*|\/\*)/.test(text);
          return text.length > COLUMNS.code && !holdsText
            ? [`${path}:${at + 1}: ${text.length} columns`]
            : [];
        }),
      ),
      ...documents.flatMap((path) =>
        lines(path).flatMap((text, at) =>
          text.length > COLUMNS.documents && /\s/.test(text.slice(0, COLUMNS.documents).trim())
            ? [`${path}:${at + 1}: ${text.length} columns`]
            : [],
        ),
      ),
    ];
    none(faults);
  });

  it('has small files and functions in src/', () => {
    const faults = source.flatMap((path) => {
      const found: string[] = [];
      const count = lines(path).length;
      if (count > (longFiles[path] ?? FILE_LINES)) found.push(`${path}: ${count} lines`);
      const look = (node: ts.Node): void => {
        if (ts.isFunctionLike(node) && 'body' in node && node.body !== undefined) {
          const first = lineOf(path, node.getStart());
          const length = lineOf(path, node.end) - first + 1;
          if (length > (longFunctions[path] ?? FUNCTION_LINES))
            found.push(`${path}:${first}: a function of ${length} lines`);
        }
        node.forEachChild(look);
      };
      look(trees.get(path)!);
      return found;
    });
    none(faults);
  });

  it('exports from a file of src/ only what another file uses', () => {
    const used = new Set(code.flatMap((path) => imports(path).map(({ to, name }) => `${to} ${name}`)));
    const faults = source
      .filter((path) => !used.has(`${path} *`))
      .flatMap((path) =>
        exported(path)
          .filter((name) => !used.has(`${path} ${name}`))
          .map((name) => `${path}: ${name}`),
      );
    none(faults);
  });

  it('has documents that follow from the tables in src/, or: npm run docs', () => {
    none(writtenDocuments().flatMap(({ path, upToDate }) => (upToDate ? [] : [path])));
  });

  it('takes no wall clock for a stopwatch', () => {
    const asking = source.filter((path) => texts.get(path)!.includes('Date.now()'));
    assert.deepEqual(asking, toldTheTime);
  });

  it('has each document once in the README', () => {
    const readme = texts.get('README.md')!;
    const faults = globSync('docs/*.md').filter((path) => readme.split(`](${path})`).length !== 2);
    none(faults);
  });

  it(`has no folder of more than ${FLAT_FILES} files`, () => {
    const counts = new Map<string, number>();
    for (const path of everything) counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
    const large = [...counts].filter(([, count]) => count > FLAT_FILES);
    none(
      large
        .filter(([folder]) => !(folder in manyFiles))
        .map(([folder, count]) => `${folder}: ${count} files`),
    );
    const names = large.map(([folder]) => folder);
    none(
      Object.keys(manyFiles)
        .filter((folder) => !names.includes(folder))
        .map((folder) => `${folder} is no exception`),
    );
  });
});

function none(faults: readonly string[]): void {
  assert.ok(faults.length === 0, `\n${faults.join('\n')}`);
}

function lines(path: string): string[] {
  return texts.get(path)!.trimEnd().split('\n');
}

/** Whether paths below our folders, and files of ours named without a folder, are there. */
function missing(text: string, where: string): string[] {
  const faults: string[] = [];
  const ours =
    /(?<![\w./@-])(?:src|test|testbed|demo|bench|scripts|docs|etc|hooks|packaging)\/[\w./-]*\w|(?<![\w./-])[\w/-]+\.ts\b/g;
  for (const [path] of text.matchAll(ours)) {
    const there =
      ['', '.ts', '.test.ts'].some((end) => existsSync(path + end)) ||
      everything.some((file) => file.endsWith(`/${path}`)) ||
      (!path.includes('/') && names.has(path));
    if (!there && !madeLater.includes(path) && !path.includes('NAME')) faults.push(`${where}: ${path}`);
  }
  return faults;
}

function comments(path: string): { text: string; line: number }[] {
  const text = texts.get(path)!;
  const found = new Map<number, string>();
  const look = (node: ts.Node): void => {
    for (const range of ts.getLeadingCommentRanges(text, node.pos) ?? [])
      found.set(range.pos, text.slice(range.pos, range.end));
    for (const range of ts.getTrailingCommentRanges(text, node.end) ?? [])
      found.set(range.pos, text.slice(range.pos, range.end));
    node.forEachChild(look);
  };
  look(trees.get(path)!);
  return [...found].map(([position, comment]) => ({ text: comment, line: lineOf(path, position) }));
}

/** What is taken from which file of ours; `*`: all that it has. */
function imports(path: string): { to: string; name: string }[] {
  const found: { to: string; name: string }[] = [];
  const add = (from: string, names: string[]): void => {
    if (from.startsWith('.')) for (const name of names) found.push({ to: join(dirname(path), from), name });
  };
  const look = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      const bindings = node.importClause?.namedBindings;
      const named = bindings !== undefined && ts.isNamedImports(bindings) ? bindings.elements : undefined;
      add(node.moduleSpecifier.text, named?.map((each) => (each.propertyName ?? each.name).text) ?? ['*']);
    } else if (
      ts.isExportDeclaration(node) &&
      node.moduleSpecifier !== undefined &&
      ts.isStringLiteral(node.moduleSpecifier)
    ) {
      const named =
        node.exportClause !== undefined && ts.isNamedExports(node.exportClause)
          ? node.exportClause.elements
          : undefined;
      add(node.moduleSpecifier.text, named?.map((each) => (each.propertyName ?? each.name).text) ?? ['*']);
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [argument] = node.arguments;
      if (argument !== undefined && ts.isStringLiteral(argument)) add(argument.text, ['*']);
    } else if (
      ts.isImportTypeNode(node) &&
      ts.isLiteralTypeNode(node.argument) &&
      ts.isStringLiteral(node.argument.literal)
    )
      add(node.argument.literal.text, [node.qualifier?.getText() ?? '*']);
    node.forEachChild(look);
  };
  look(trees.get(path)!);
  return found;
}

/** What a file exports, but for types that the file itself uses: those belong to what it exports besides. */
function exported(path: string): string[] {
  const text = texts.get(path)!;
  return trees.get(path)!.statements.flatMap((statement) => {
    if (!ts.canHaveModifiers(statement)) return [];
    if (!ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) return [];
    if (ts.isVariableStatement(statement))
      return statement.declarationList.declarations.map(({ name }) => name.getText());
    if (!('name' in statement)) return [];
    const name = (statement.name as ts.Identifier).text;
    const isType = ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement);
    return isType && text.split(new RegExp(`\\b${name}\\b`)).length > 2 ? [] : [name];
  });
}
