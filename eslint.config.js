import tseslint from 'typescript-eslint';

// Imports point down only (docs/architecture.md): a room may use the rooms after it in this list, never those before.
const rooms = ['bin', 'host', 'gateway', 'relocation', 'export', 'store', 'pki', 'nbd', 'config', 'log'];

const importsPointDown = rooms.map((room, index) => ({
  files: [`src/${room}/**/*.ts`],
  rules: {
    'no-restricted-imports': [
      'error',
      {
        patterns: rooms.slice(0, index).map((above) => ({
          group: [`../${above}/*`, `../../${above}/*`],
          message: `src/${room} lies below src/${above}: imports point down only.`,
        })),
      },
    ],
  },
}));

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'eslint.config.js'] },
  ...tseslint.configs.strictTypeChecked,
  { languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } } },
  {
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/restrict-template-expressions': 'off',
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      eqeqeq: 'error',
    },
  },
  ...importsPointDown,
  { files: ['test/**/*.ts'], rules: { '@typescript-eslint/no-unused-expressions': 'off' } },
);
