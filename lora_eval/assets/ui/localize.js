// The page of our own speaks another language: whole texts are looked up, as the WebUIs do it for their pages.
(function (words) {
    "use strict";
    const skipped = new Set(["SCRIPT", "STYLE", "TEXTAREA"]);

    function text(node) {
        const said = node.nodeValue, known = words[said.trim()];
        if (known && !skipped.has(node.parentNode && node.parentNode.nodeName)) {
            node.nodeValue = said.replace(said.trim(), function () { return known; });
        }
    }

    function element(one) {
        for (const name of ["placeholder", "title", "aria-label"]) {
            const known = one.getAttribute && words[(one.getAttribute(name) || "").trim()];
            if (known) one.setAttribute(name, known);
        }
    }

    function all(root) {
        if (root.nodeType === Node.TEXT_NODE) return text(root);
        if (root.nodeType !== Node.ELEMENT_NODE) return undefined;
        element(root);
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
        while (walker.nextNode()) (walker.currentNode.nodeType === Node.TEXT_NODE ? text : element)(walker.currentNode);
        return undefined;
    }

    new MutationObserver(function (changes) {
        for (const change of changes) {
            if (change.type === "characterData") text(change.target);
            for (const added of change.addedNodes) all(added);
        }
    }).observe(document, { childList: true, subtree: true, characterData: true });
    all(document.documentElement);
})(LORA_EVAL_WORDS);
