// LoRA Eval: asks how the jobs are doing, opens pictures large, copies tags.
// The page only asks; jobs live in the server, so closing the page or opening a second one does no harm.
var loraEval = window.loraEval || (function () {
    "use strict";

    const FAST = 1000, SLOW = 5000, PATIENCE = 15000;
    const tabs = ["lora_eval_train", "lora_eval_score"];
    const clocks = {};
    const self = { run: "", picture: "", job: "" };

    function root() {
        const app = document.getElementsByTagName("gradio-app")[0];
        return (app && app.shadowRoot) || document;
    }

    function find(id) {
        return root().querySelector("#" + id);
    }

    function press(id) {
        const found = find(id);
        const button = found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
        if (button) button.click();
        return Boolean(button);
    }

    // newer gradio puts a tab into the page when it is first opened
    function pressSoon(id, tries) {
        if (!press(id) && tries > 0) setTimeout(function () { pressSoon(id, tries - 1); }, 100);
    }

    function seen(element) {
        return element && element.offsetParent !== null;
    }

    // -- asking ---------------------------------------------------------------------------------

    function ticks(tab) {
        const tick = root().querySelector("#" + tab + "_tick [data-le-tick]");
        return tick ? tick.dataset.leTick : "";
    }

    function poll(tab) {
        const box = find(tab + "_tab");
        if (!box || document.hidden) return;
        const clock = clocks[tab] || (clocks[tab] = { asked: 0, tick: null });
        const now = Date.now();
        const answered = ticks(tab) !== clock.tick;
        const active = box.querySelector('[data-le-active="1"]');
        const wait = active ? FAST : SLOW;
        const visible = seen(box);
        if (clock.visible !== visible) {
            // a tab that was just opened is brought up to date at once
            clock.visible = visible;
            if (visible && answered) clock.asked = 0;
        }
        if (!visible && clock.tick !== null) return;
        if (now - clock.asked < (answered ? wait : PATIENCE)) return;
        const before = ticks(tab);
        // newer gradio puts the parts of a tab into the page one after the other: no button, nothing asked
        if (!press(tab + "_poll")) return;
        clock.asked = now;
        clock.tick = before;
    }

    function hurry(tab) {
        const clock = clocks[tab];
        if (clock) clock.asked = Math.min(clock.asked, Date.now() - SLOW + 400);
    }

    // -- from one tab to the other ----------------------------------------------------------------

    function openTab(id, title) {
        const button = find("tab_" + id + "-button");
        if (button) {
            button.click();
            return;
        }
        // by place where the panels are in the page, since titles may be translated; by title elsewhere
        const all = Array.from(root().querySelectorAll("#tabs > .tab-nav > button, #tabs button[role=tab]"));
        const panel = find("tab_" + id);
        const panels = Array.from(root().querySelectorAll("#tabs > .tabitem"));
        const by = all.find(function (one) { return one.textContent.trim() === title; }) || all[panels.indexOf(panel)];
        if (by) by.click();
    }

    self.scoreRun = function () {
        const shown = root().querySelector("#lora_eval_train_job [data-le-folder]");
        self.run = shown ? shown.dataset.leFolder : "";
        openTab("lora_eval_score", "LoRA Scorecard");
        pressSoon("lora_eval_score_fill", 50);
    };

    // captions that were changed on the page, by picture
    self.captions = function () {
        const changed = {};
        for (const area of root().querySelectorAll("#lora_eval_train_checked textarea[data-le-caption]")) {
            if (area.value !== area.defaultValue) changed[area.dataset.leCaption] = area.value;
        }
        return JSON.stringify(changed);
    };

    // a page that changes texts in place keeps what was typed over a caption that has since been changed on disk
    new MutationObserver(function (records) {
        for (const { target } of records) {
            const area = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
            if (area && area.matches && area.matches("textarea[data-le-caption]")) area.value = area.defaultValue;
        }
    }).observe(document, { childList: true, characterData: true, subtree: true });

    // a picture to be moved out of the folder; captions changed on the page are not lost over it
    self.asideOrder = function () {
        return JSON.stringify({ name: self.aside, captions: JSON.parse(self.captions()) });
    };

    // -- large pictures ---------------------------------------------------------------------------

    let box = null, around = [], at = 0, tabOf = tabs[1];

    function tabAround(element) {
        return tabs.find(function (tab) { return element.closest("#" + tab + "_tab"); }) || tabs[1];
    }

    function lightbox() {
        if (box) return box;
        box = document.createElement("div");
        box.id = "lora_eval_lightbox";
        box.setAttribute("role", "dialog");
        box.setAttribute("aria-modal", "true");
        box.innerHTML = '<button type="button" class="close" aria-label="close">×</button>' +
            '<button type="button" class="back" aria-label="previous">‹</button>' +
            '<figure><img alt=""><figcaption></figcaption></figure>' +
            '<button type="button" class="next" aria-label="next">›</button>';
        box.addEventListener("click", function (event) {
            if (event.target.closest(".back")) show(at - 1);
            else if (event.target.closest(".next")) show(at + 1);
            else if (!event.target.closest("img")) close();
        });
        document.body.appendChild(box);
        return box;
    }

    function show(index) {
        if (!around.length) return;
        at = (index + around.length) % around.length;
        const small = around[at];
        lightbox().classList.add("open");
        box.querySelector("img").src = small.src;
        box.querySelector("figcaption").textContent = small.dataset.leWords || "";
        self.picture = small.dataset.lePicture;
        if (small.dataset.leWhole) box.querySelector("img").src = small.dataset.leWhole;
        else press(tabOf + "_whole");
        box.querySelector(".close").focus();
    }

    function close() {
        if (!box || !box.classList.contains("open")) return;
        box.classList.remove("open");
        if (around[at]) around[at].focus();
    }

    function whole() {
        const answer = root().querySelector("#" + tabOf + "_answer img[data-le-key]");
        if (!box || !answer || answer.dataset.leKey !== self.picture) return;
        const large = box.querySelector("img");
        if (large.src !== answer.src) large.src = answer.src;
    }

    function open(small) {
        const group = small.closest(".lora-eval-film, .lora-eval-pictures, .lora-eval-findings, .lora-eval-map");
        around = Array.from((group || root()).querySelectorAll("img[data-le-picture]"));
        tabOf = tabAround(small);
        show(Math.max(0, around.indexOf(small)));
    }

    // -- clicks and keys ----------------------------------------------------------------------------

    function copy(text) {
        if (navigator.clipboard && window.isSecureContext) {
            navigator.clipboard.writeText(text);
            return;
        }
        const area = document.createElement("textarea");
        area.value = text;
        document.body.appendChild(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }

    // into the prompt of the WebUI's own tab, in place of the same LoRA at another weight
    function send(tag) {
        const prompt = root().querySelector("#txt2img_prompt textarea");
        if (!prompt) return;
        const name = tag.split(":")[1];
        const rest = prompt.value.split(/\s*(<lora:[^>]*>)/).filter(function (part) {
            return !part.startsWith("<lora:" + name + ":");
        }).map(function (part) { return part.trim(); }).filter(Boolean).join(" ");
        prompt.value = (rest + " " + tag).trim();
        prompt.dispatchEvent(new Event("input", { bubbles: true }));
        if (typeof window.switch_to_txt2img === "function") window.switch_to_txt2img();
    }

    function clicked(event) {
        const target = event.composedPath ? event.composedPath()[0] : event.target;
        if (!target || !target.closest) return;
        const small = target.closest("img[data-le-picture]");
        if (small) return open(small);
        const tag = target.closest("[data-le-copy]");
        if (tag) {
            copy(tag.dataset.leCopy);
            tag.classList.add("done");
            return undefined;
        }
        const sent = target.closest("[data-le-send]");
        if (sent) {
            send(sent.dataset.leSend);
            return undefined;
        }
        const run = target.closest("[data-le-run]");
        if (run) {
            self.run = run.dataset.leRun;
            press(tabAround(run) + "_pick");
            return undefined;
        }
        const aside = target.closest("[data-le-aside]");
        if (aside) {
            self.aside = aside.dataset.leAside;
            press("lora_eval_train_aside");
            return undefined;
        }
        for (const what of ["cancel", "again"]) {
            const about = target.closest("[data-le-" + what + "]");
            if (!about) continue;
            self.job = about.getAttribute("data-le-" + what);
            press(tabAround(about) + "_" + what);
            tabs.forEach(hurry);
            return undefined;
        }
        for (const tab of tabs) if (target.closest("#" + tab + "_settings button")) hurry(tab);
        return undefined;
    }

    function typed(event) {
        if (box && box.classList.contains("open")) {
            const buttons = Array.from(box.querySelectorAll("button"));
            const step = event.shiftKey ? buttons.length - 1 : 1;
            if (event.key === "Escape") close();
            else if (event.key === "ArrowLeft") show(at - 1);
            else if (event.key === "ArrowRight") show(at + 1);
            else if (event.key === "Home") show(0);
            else if (event.key === "End") show(around.length - 1);
            // the page behind a dialog is out of reach for Tab
            else if (event.key === "Tab") buttons[(buttons.indexOf(document.activeElement) + step) % buttons.length].focus();
            else return;
            event.preventDefault();
            event.stopPropagation();
        } else if (event.key === "Enter" && event.target.matches && event.target.matches("img[data-le-picture]")) {
            // or the same key would press the button that gets the focus
            event.preventDefault();
            open(event.target);
        }
    }

    // The report follows the page's theme, not the system's: it is told with its address.
    function theme() {
        const dark = document.body.classList.contains("dark") || root().querySelector(".gradio-container.dark") !== null;
        for (const frame of root().querySelectorAll("iframe[data-le-src]")) {
            const address = frame.dataset.leSrc, sign = address.includes("?") ? "&" : "?";
            const wanted = address + sign + "theme=" + (dark ? "dark" : "light");
            if (frame.getAttribute("src") !== wanted) frame.setAttribute("src", wanted);
        }
    }

    // A strip of pictures is written anew while it grows: it stays at its end, or where it was put.
    const strips = {};

    function place() {
        for (const strip of root().querySelectorAll(".lora-eval-film:not([data-le-placed])")) {
            // in a tab that is not open it has no width yet
            if (!seen(strip)) continue;
            const name = (strip.closest("[id]") || strip).id;
            strip.dataset.lePlaced = "1";
            strip.scrollLeft = name in strips ? strips[name] : strip.scrollWidth;
            strip.addEventListener("scroll", function () {
                const end = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 4;
                if (end) delete strips[name];
                else strips[name] = strip.scrollLeft;
            }, { passive: true });
        }
    }

    function watch() {
        for (const tab of tabs) {
            const column = find(tab + "_progress");
            if (!column || column.dataset.leWatched) continue;
            column.dataset.leWatched = "1";
            new MutationObserver(place).observe(column, { childList: true, subtree: true });
        }
    }

    document.addEventListener("click", clicked);
    document.addEventListener("keydown", typed, true);
    setInterval(function () {
        tabs.forEach(poll);
        watch();
        place();
        whole();
        theme();
        const webui = find("txt2img_prompt") !== null;
        for (const one of root().querySelectorAll("[data-le-send]")) one.classList.toggle("ready", webui);
    }, 250);
    return self;
})();
window.loraEval = loraEval;
