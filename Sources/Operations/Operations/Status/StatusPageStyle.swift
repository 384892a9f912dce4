extension StatusPage {
    /// All of it is here: the page loads nothing.
    static let style: HTML = """

        :root { color-scheme: light dark; --ink: #1b1f24; --soft: #5d6673; --line: #dde1e6; --paper: #fff; --band: #f5f6f8;
          --good: #1a7f37; --warn: #8a5a00; --bad: #c02632; --goodband: #dff3e4; --warnband: #fdf0cf; --badband: #fde2e2; }
        @media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #98a2ae; --line: #2d333b; --paper: #15181c;
          --band: #1c2026; --good: #5fd38a; --warn: #e8b84a; --bad: #ff8a8a; --goodband: #15301f; --warnband: #352a10;
          --badband: #3d1c1f; } }
        * { box-sizing: border-box; }
        body { margin: 0 auto; max-width: 76rem; padding: 1.25rem 1.25rem 2rem; background: var(--paper); color: var(--ink);
          font: 0.9375rem/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
        header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.75rem; margin-bottom: 1rem; }
        header p { margin: 0; }
        header .aside { margin-left: auto; }
        h1 { font-size: 1.375rem; margin: 0; letter-spacing: -0.01em; }
        h2 { font-size: 0.9375rem; margin: 1.75rem 0 0.5rem; }
        .aside, footer, .note, th, dt { color: var(--soft); font-weight: 400; font-size: 0.8125rem; }
        a { color: inherit; }
        dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: 1px; margin: 0;
          background: var(--line); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
        dl div { background: var(--paper); padding: 0.625rem 0.875rem 0.75rem; }
        dd { margin: 0; font-size: 1.375rem; line-height: 1.3; letter-spacing: -0.01em; }
        dd.note { letter-spacing: 0; line-height: 1.4; }
        meter { display: block; width: 100%; height: 0.5rem; margin: 0.2rem 0 0.3rem; }
        table { border-collapse: collapse; width: 100%; }
        th, td { text-align: left; padding: 0.3rem 0.75rem 0.3rem 0; border-bottom: 1px solid var(--line);
          white-space: nowrap; vertical-align: baseline; }
        td:first-child { max-width: 22rem; overflow: hidden; text-overflow: ellipsis; }
        th:last-child, td:last-child { padding-right: 0; }
        .n { text-align: right; padding-right: 1.25rem; }
        tbody tr:hover { background: var(--band); }
        .badge { display: inline-block; font-size: 0.75rem; font-weight: 600; line-height: 1.35; padding: 0 0.45rem;
          border-radius: 999px; }
        header .badge { font-size: 0.8125rem; padding: 0.1rem 0.6rem; }
        .badge.good { color: var(--good); background: var(--goodband); }
        .badge.warn { color: var(--warn); background: var(--warnband); }
        .badge.bad { color: var(--bad); background: var(--badband); }
        #alarms h2 { margin-top: 0; }
        #alarms ul { list-style: none; margin: 0 0 1.25rem; padding: 0; }
        #alarms li { border-left: 3px solid; padding: 0.4rem 0.75rem; margin-bottom: 0.35rem; overflow-wrap: anywhere; }
        #alarms li.bad { border-color: var(--bad); background: var(--badband); }
        #alarms li.warn { border-color: var(--warn); background: var(--warnband); }
        #alarms b { margin-right: 0.5rem; }
        #certificates table { width: auto; }
        #certificates td, #certificates th { padding-right: 2.5rem; }
        footer { margin-top: 2rem; }
        @media (max-width: 44rem) { body { padding: 0.875rem 0.875rem 1.5rem; } .wide { display: none; }
          header .aside { margin-left: 0; width: 100%; } dl { grid-template-columns: 1fr 1fr; }
          th, td { padding-right: 0.5rem; } .n { padding-right: 0.75rem; }
          td:first-child { max-width: 8.5rem; } #certificates table { width: 100%; }
          #certificates td, #certificates th { padding-right: 0.75rem; }
          #certificates td:first-child { max-width: none; white-space: normal; } }
        """
}
