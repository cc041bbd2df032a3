/**
 * `Symbol.asyncDispose` for the first releases of Node 20, which lack it. Imported before anything that
 * uses it as the name of a method.
 */
if (!Reflect.has(Symbol, "asyncDispose")) {
  Object.defineProperty(Symbol, "asyncDispose", { value: Symbol.for("Symbol.asyncDispose") });
}
export {};
