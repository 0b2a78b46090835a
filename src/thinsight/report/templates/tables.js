// Long tables (more than 12 rows, or of class `filter` or `ledger`) get a box that filters their rows and headings that
// sort them; those with badges get a chip for each verdict. Rows stay in their block: a tbody, or what follows a heading
// that spans the table. Tables inside an element of class `ledger` share one box. Without this script they are just long.
(() => {
  const LONG = 12, TALL = 100, KINDS = ["obtained", "range", "missed", "needs", "recomputed", "inferred", "differs", "notrun", "adds", "addsnot"];
  const words = node => node.textContent.replace(/\s+/g, " ").trim();

  const make = (tag, attributes, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...inside);
    return node;
  };

  // The cell that stands in each column of each row, whatever it spans.
  const grid = rows => {
    const found = rows.map(() => []);
    rows.forEach((row, down) => {
      let column = 0;
      for (const cell of row.cells) {
        while (found[down][column]) column += 1;
        for (let y = 0; y < cell.rowSpan && down + y < rows.length; y += 1)
          for (let x = 0; x < cell.colSpan; x += 1) found[down + y][column + x] = cell;
        column += cell.colSpan;
      }
    });
    return found;
  };

  // A cell that stands for several rows is copied into each, hidden as long as the rows are whole and in order.
  const spans = body => {
    const rows = [...body.rows], found = [];
    grid(rows).forEach((cells, down) => cells.forEach((cell, column) => {
      if (cell.rowSpan > 1 && cell.parentElement === rows[down]) found.push({ cell, down, column, of: cell.rowSpan });
    }));
    return found.map(({ cell, down, column, of }) => {
      const copies = rows.slice(down + 1, down + of).map(row => {
        const copy = cell.cloneNode(true);
        copy.removeAttribute("rowspan");
        copy.removeAttribute("id");
        copy.hidden = true;
        row.insertBefore(copy, row.cells[column] ?? null);
        return copy;
      });
      return apart => {
        cell.rowSpan = apart ? 1 : of;
        for (const copy of copies) copy.hidden = !apart;
      };
    });
  };

  const blocks = body => {
    const found = [{ body, head: null, rows: [] }];
    for (const row of body.rows) {
      if (row.classList.contains("block") || (row.cells.length === 1 && row.cells[0].colSpan > 1)) found.push({ body, head: row, rows: [] });
      else found.at(-1).rows.push(row);
    }
    return found.filter(block => block.head || block.rows.length);
  };

  const number = text => {
    const found = /^[^\p{L}\d]{0,2}?([−+-]?)(\d[\d,]*(?:\.\d+)?)/u.exec(text);
    return found ? (/[−-]/.test(found[1]) ? -1 : 1) * Number(found[2].replaceAll(",", "")) : NaN;
  };

  const badges = row => [...row.querySelectorAll(".badge")].map(node => [/\bbadge-([a-z]+)/.exec(node.className)?.[1], words(node)]);

  // Headings that sort; the order of a table is its own.
  function sortable(table, parts, changed) {
    let order = null;
    const rows = parts.flatMap(part => part.rows);
    const columns = new Map();
    grid([...table.tHead?.rows ?? []]).forEach(cells => cells.forEach((cell, column) => {
      if (cell.colSpan === 1 && words(cell) && !("still" in cell.dataset) && !cell.querySelector("a, button")) columns.set(column, cell);
    }));
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell ? cell.dataset.sort ?? words(cell) : "";
    };
    const compare = (one, other) => {
      const { column, counts, sign } = order;
      const [a, b] = [value(one, column), value(other, column)];
      if (!counts) return sign * a.localeCompare(b, "en", { numeric: true });
      const [x, y] = [number(a), number(b)];
      return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : sign * (x - y));
    };
    for (const [column, heading] of columns) {
      const button = make("button", { type: "button", class: "sort", title: "Sort by this column" }, ...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const filled = rows.map(row => value(row, column)).filter(text => /\d|\p{L}/u.test(text) && !/^(not run|none|nan)\b/i.test(text));
        const counts = filled.filter(text => !Number.isNaN(number(text))).length > filled.length / 2;
        const [first, then] = counts ? ["descending", "ascending"] : ["ascending", "descending"];
        const before = heading.getAttribute("aria-sort");
        const now = before === first ? then : before === then ? null : first;
        for (const other of columns.values()) other.removeAttribute("aria-sort");
        if (now) heading.setAttribute("aria-sort", now);
        order = now && { column, counts, sign: now === "ascending" ? 1 : -1 };
        for (const { body, head, rows: own } of parts) {
          if (head) body.append(head);
          body.append(...(order ? [...own].sort(compare) : own));
        }
        changed();
      });
    }
    return () => order !== null;
  }

  // One box, one set of chips and one count for some tables; `frame` is what they stand in, null for a table by itself.
  function sift(tables, frame) {
    const sheets = tables.map(table => {
      const parts = [...table.tBodies].flatMap(blocks);
      return { table, parts, rows: parts.flatMap(part => part.rows), pull: [...table.tBodies].flatMap(spans) };
    });
    const rows = sheets.flatMap(sheet => sheet.rows);
    if (!rows.length) return;
    for (const sheet of sheets) {
      sheet.box = sheet.table.closest(".scroll") ?? sheet.table;
      const fold = sheet.table.closest("details");
      if (fold && frame?.contains(fold)) sheet.fold = fold;
      sheet.sorted = sheet.rows.length > 1 ? sortable(sheet.table, sheet.parts, () => show()) : () => false;
      if (sheet.rows.length > TALL) sheet.box.classList.add("tall");
    }
    const about = sheet => sheet.fold ? words(sheet.fold.querySelector("summary") ?? sheet.fold) : "";
    const text = new Map(sheets.flatMap(sheet => sheet.parts.flatMap(part => {
      const head = [about(sheet), part.head ? words(part.head) : ""];
      return part.rows.map(row => [row, [words(row), ...head].join(" ").toLowerCase()]);
    })));
    const kinds = new Map(rows.map(row => [row, new Set(badges(row).map(([name]) => name))]));
    const names = new Map(rows.flatMap(badges));
    const chosen = new Set();

    const box = make("input", { type: "search", placeholder: "Filter rows", "aria-label": frame ? "Filter the rows of these tables" : "Filter the rows of this table", autocomplete: "off", spellcheck: "false" });
    const told = make("output", { "aria-live": "polite" });
    const chips = [...names.keys()].filter(Boolean).sort((a, b) => KINDS.indexOf(a) - KINDS.indexOf(b)).map(name => {
      const of = rows.filter(row => kinds.get(row).has(name));
      const chip = make("button", { type: "button", class: `chip chip-${name}`, "data-kind": name, "aria-pressed": "false" },
        names.get(name), make("b", {}, String(of.length)));
      chip.addEventListener("click", () => {
        chosen[chosen.has(name) ? "delete" : "add"](name);
        show();
      });
      return chip;
    });
    box.addEventListener("input", show);

    function show() {
      const asked = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      const active = asked.length > 0 || chosen.size > 0;
      let all = 0;
      for (const sheet of sheets) {
        let seen = 0;
        for (const { head, rows: own } of sheet.parts) {
          let any = false;
          for (const row of own) {
            const fits = asked.every(word => text.get(row).includes(word)) && (!chosen.size || [...chosen].some(name => kinds.get(row).has(name)));
            row.hidden = !fits;
            any ||= fits;
            seen += fits;
          }
          if (head && own.length) head.hidden = !any;
        }
        all += seen;
        for (const apart of sheet.pull) apart(seen < sheet.rows.length || sheet.sorted());
        if (frame) (sheet.fold ?? sheet.box).hidden = seen === 0;
        if (sheet.fold && active && !("was" in sheet)) sheet.was = sheet.fold.open;
        if (sheet.fold && active) sheet.fold.open = seen > 0;
        if (sheet.fold && !active && "was" in sheet) {
          sheet.fold.open = sheet.was;
          delete sheet.was;
        }
      }
      for (const chip of chips) chip.setAttribute("aria-pressed", chosen.has(chip.dataset.kind));
      told.textContent = all === rows.length ? `${all} rows` : `${all} of ${rows.length} rows`;
    }

    const bar = make("div", { class: "sift", role: "group", "aria-label": "Filter" }, box, ...chips, told);
    (frame ? sheets[0].table.closest(".ledger > *") : sheets[0].box).before(bar);
    show();

    const follow = () => {
      const name = /^#ledger-([a-z]+)$/.exec(location.hash)?.[1];
      if (!chips.some(chip => chip.dataset.kind === name)) return;
      chosen.clear();
      chosen.add(name);
      show();
      bar.scrollIntoView();
    };
    addEventListener("hashchange", follow);
    follow();
  }

  for (const frame of document.querySelectorAll(".ledger:not(table)")) sift([...frame.querySelectorAll("table")], frame);
  for (const table of document.querySelectorAll("table")) {
    const long = [...table.tBodies].reduce((sum, body) => sum + body.rows.length, 0) > LONG;
    if (!table.closest(".ledger:not(table)") && (long || table.matches(".filter, .ledger"))) sift([table], null);
  }
})();
