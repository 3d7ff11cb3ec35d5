-- Long cells can be folded away; plotting cells say so themselves and come folded.
local long = 25  -- lines
function CodeBlock(block)
  if block.classes:includes("cell-code") and not block.attributes["code-fold"] then
    local _, breaks = block.text:gsub("\n", "\n")
    if breaks + 1 > long then
      block.attributes["code-fold"] = "show"
      return block
    end
  end
end
