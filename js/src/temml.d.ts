// The library's sources have no types of their own; those of its bundle are the same.

declare module "temml/temml.js" {
  export { default } from "temml";
}
