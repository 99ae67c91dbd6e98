// In place of ../stop in a page without a kernel: its runs are over, and nothing can be stopped.

export const stop = async (): Promise<"gone"> => "gone";
