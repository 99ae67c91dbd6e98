// Short names for what is called often: the build has them in place of the long ones.

const { abs, ceil, floor, max, min, round } = Math;
const { isNaN: isNotANumber } = Number;

export {
  abs as "Math.abs",
  ceil as "Math.ceil",
  floor as "Math.floor",
  isNotANumber as "Number.isNaN",
  max as "Math.max",
  min as "Math.min",
  round as "Math.round",
};
